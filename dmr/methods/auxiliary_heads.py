"""Auxiliary heads: the fused loss, and the loss of one shared head on the features of each single modality.

Ding, Yu, Yang, "RFNet", ICCV 2021, and Zhang et al., "mmFormer", MICCAI 2022 (arXiv 2206.02425), regularise their
encoders so: on every modality a sample has, whatever combination the fusion sees.

Letters: M modalities, B samples, S positions of a map, D features, Z features of the embedding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from dmr.data.transfer import to_device
from dmr.distributed.ranks import BatchShard
from dmr.losses import masked_mean
from dmr.methods.base import Components, MaskedBatch, StepLosses
from dmr.methods.dropout import Dropout, DropoutSettings
from dmr.settings import setting


@dataclass(frozen=True)
class AuxiliaryHeadsSettings(DropoutSettings):
    auxiliary_weight: float = setting(1.0, ge=0.0)


class AuxiliaryHeads(Dropout):
    """`dropout` with auxiliary heads; they are not used in evaluation."""

    Settings = AuxiliaryHeadsSettings
    encodes_all = True
    search_space: ClassVar[dict[str, Any]] = {"model.auxiliary_weight": {"log_uniform": [0.05, 5.0]}}

    def __init__(self, settings: AuxiliaryHeadsSettings, parts: Components) -> None:
        super().__init__(settings, parts)
        self.project = nn.ModuleList(nn.Linear(width, parts.embedding_width) for width in parts.widths)
        self.shared_head = parts.head(parts.embedding_width)

    def losses(self, seen: MaskedBatch, generator: torch.Generator) -> StepLosses:
        losses = self.single_losses(seen)
        there = torch.ones_like(losses, dtype=torch.bool)
        if seen.has is not None:
            there = to_device(seen.part.cut(seen.has).T, losses.device)
        auxiliary = masked_sum_of_means(losses, there, seen.part)
        fused = self.fusion(seen.features.contexts, seen.masks)
        return self.with_terms(seen, fused, {"auxiliary": (self.settings.auxiliary_weight, auxiliary)})

    def single_losses(self, seen: MaskedBatch) -> Tensor:
        """(M, B) loss of the shared head on each modality alone."""
        projected = [project(f) for project, f in zip(self.project, seen.features.contexts, strict=True)]
        alone = torch.eye(len(projected), dtype=torch.bool, device=seen.masks.device)
        masks = alone[:, None, :].expand(-1, len(seen.labels), -1)
        losses: Tensor = self.criterion(
            self.shared_head(torch.stack(projected), seen.features.skips, masks), seen.labels
        )
        return losses


def masked_sum_of_means(losses: Tensor, there: Tensor, part: BatchShard | None = None) -> Tensor:
    """() Σ_m of the mean of (M, B) losses over the samples that have modality m: `there` (M, B)."""
    return torch.stack([masked_mean(row, mask, part) for row, mask in zip(losses, there, strict=True)]).sum()
