"""ShaSpec: shared and specific features of each modality; a missing one is replaced by the mean of the shared ones.

Wang, Chen, Ma, Avery, Hull, Carneiro, "Multi-modal Learning with Missing Modality via Shared-Specific Feature
Modelling", CVPR 2023 (arXiv 2307.14126), section 3. The paper's shared encoder reads raw inputs, which have one shape
there; here modalities differ, so it reads each encoder's features after a projection of their own.

Letters: M modalities, B samples, K combinations per sample, S positions of a map, D features.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dmr.distributed.ranks import BatchShard
from dmr.fusion import FusionModule, FusionTerm, mean_present, mean_weights, present
from dmr.losses import masked_mean
from dmr.methods.base import Components, MaskedBatch, StepLosses
from dmr.methods.dropout import Dropout, DropoutSettings
from dmr.settings import setting


@dataclass(frozen=True)
class ShaSpecSettings(DropoutSettings):
    """The weights of the paper."""

    distance_weight: float = setting(0.1, ge=0.0)
    domain_weight: float = setting(0.02, ge=0.0)


class ShaSpec(Dropout):
    """`dropout` on shared and specific features, with the paper's two terms on them."""

    Settings = ShaSpecSettings
    search_space: ClassVar[dict[str, Any]] = {
        "model.distance_weight": {"log_uniform": [1e-3, 1.0]},
        "model.domain_weight": {"log_uniform": [1e-3, 1.0]},
    }

    def __init__(self, settings: ShaSpecSettings, parts: Components) -> None:
        fusion = SharedSpecific(parts.widths)
        super().__init__(settings, parts, fusion)
        self.fusion: SharedSpecific = fusion
        self.which = nn.Linear(fusion.own, len(parts.widths))

    def losses(self, seen: MaskedBatch, generator: torch.Generator) -> StepLosses:
        shared, specific = self.fusion.split(seen.features.contexts)
        there = seen.masks.any(0)
        terms = {
            "distance": (self.settings.distance_weight, shared_distance(shared, there, seen.part)),
            "domain": (
                self.settings.domain_weight,
                domain_loss([self.which(_flat(f)) for f in specific], there, seen.part),
            ),
        }
        return self.with_terms(seen, self.fusion.combine(shared, specific, seen.masks), terms)


class SharedSpecific(FusionModule):
    """r_m = shared_m + R([shared_m, specific_m]) of those present, the mean of their shared_m for the others, side by
    side: (K, B, *S, M·D).
    """

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        self.own = max(1, sum(widths) // len(widths))
        self.width = self.own * len(widths)
        self.adapt = nn.ModuleList(nn.Linear(width, self.own) for width in widths)
        self.shared = nn.Linear(self.own, self.own)
        self.specific = nn.ModuleList(nn.Linear(width, self.own) for width in widths)
        self.residual = nn.Linear(2 * self.own, self.own)

    def forward(self, features: Sequence[Tensor], masks: Tensor) -> Tensor:
        return self.combine(*self.split(features), masks)

    def split(self, features: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Shared and specific features (B, *S, D) of each modality."""
        shared = [F.relu(self.shared(F.relu(adapt(f)))) for adapt, f in zip(self.adapt, features, strict=True)]
        return shared, [F.relu(own(f)) for own, f in zip(self.specific, features, strict=True)]

    def combine(self, shared: Sequence[Tensor], specific: Sequence[Tensor], masks: Tensor) -> Tensor:
        generated = mean_present(masks, shared)
        return torch.cat(
            [
                torch.where(present(masks, m, one), one + self.residual(torch.cat([one, own], dim=-1)), generated)
                for m, (one, own) in enumerate(zip(shared, specific, strict=True))
            ],
            dim=-1,
        )

    @property
    def is_sum(self) -> bool:
        return True

    def terms(self, features: Sequence[Tensor], masks: Tensor) -> list[FusionTerm]:
        shared, specific = self.split(features)
        there, of_mean = masks.T.float(), mean_weights(masks)  # (M, C)
        terms = []
        for m, (one, own) in enumerate(zip(shared, specific, strict=True)):
            columns = slice(m * self.own, (m + 1) * self.own)
            terms.append(FusionTerm(one + self.residual(torch.cat([one, own], dim=-1)), columns, there[m]))
            terms += [
                FusionTerm(other, columns, (1.0 - there[m]) * of_mean[j]) for j, other in enumerate(shared) if j != m
            ]
        return terms


def shared_distance(shared: Sequence[Tensor], there: Tensor, part: BatchShard | None = None) -> Tensor:
    """() Σ over pairs i < j of mean |shared_i − shared_j| over features, positions and the samples that have both:
    features (B, *S, D), `there` (B, M).
    """
    pairs = itertools.combinations(range(len(shared)), 2)
    terms = [
        masked_mean((shared[i] - shared[j]).abs().flatten(1).mean(1), there[:, i] & there[:, j], part) for i, j in pairs
    ]
    return torch.stack(terms).sum() if terms else shared[0].new_zeros(())


def domain_loss(logits: Sequence[Tensor], there: Tensor, part: BatchShard | None = None) -> Tensor:
    """() mean cross-entropy of telling the modality from its specific features, over what is present: logits (B, M) of
    each modality, `there` (B, M).
    """
    stacked = torch.stack(list(logits), dim=1)  # (B, M, M)
    labels = torch.arange(stacked.shape[1], device=stacked.device).expand(stacked.shape[:2])
    losses = F.cross_entropy(stacked.float().flatten(0, 1), labels.flatten(), reduction="none").view(labels.shape)
    return masked_mean(losses, there, part)


def _flat(features: Tensor) -> Tensor:
    """(B, D): the mean over positions of (B, *S, D)."""
    return features.flatten(1, -2).mean(1) if features.ndim > 2 else features
