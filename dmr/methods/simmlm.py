"""SimMLM: one expert per modality, mixed by a gate over those present, and two nested combinations per step: more
modalities must not do worse than fewer.

Li, Chen, Han, Zhang, "SimMLM: A Simple Framework for Multi-modal Learning with Missing Modality", ICCV 2025
(arXiv 2507.19264), section 3: dynamic mixture of modality experts, and the more-vs-fewer ranking loss.

Letters: M modalities, B samples, K combinations per sample, C combinations, S positions of a map, D features,
Z features of the embedding, P pixels of a label map, L classes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from dmr.combinations import Combinations
from dmr.distributed.ranks import BatchShard, alone
from dmr.fusion import concat_terms, keep_present
from dmr.methods.base import Components, Features, MaskedBatch, Method, Prediction, StepLosses
from dmr.methods.dropout import DropoutSettings
from dmr.methods.heads import ClassificationHead, ProjectionHead, pooled
from dmr.methods.summed_heads import Affine, DescribedCombinations, Summed, TermSums, averaged
from dmr.sampling import rows_by_modality
from dmr.settings import setting


@dataclass(frozen=True)
class SimMLMSettings(DropoutSettings):
    """`ranking_weight` is the paper's λ."""

    ranking_weight: float = setting(0.1, ge=0.0)


class SimMLM(Method):
    """Experts give logits, a gate their weights; the mixture is the prediction of a combination. The loss is
    L(more) + L(fewer) + λ · mean max(0, L(more) − L(fewer)).
    """

    Settings = SimMLMSettings
    search_space: ClassVar[dict[str, Any]] = {"model.ranking_weight": {"log_uniform": [0.01, 3.0]}}

    def __init__(self, settings: SimMLMSettings, parts: Components) -> None:
        super().__init__(settings, parts)
        trunks = [parts.trunk(width) for width in parts.widths]
        self.trunks = nn.ModuleList(trunks)
        self.embed = nn.ModuleList(
            ProjectionHead(trunk.width, settings.head_norm, parts.embedding_width) for trunk in trunks
        )
        self.heads = nn.ModuleList(parts.head(parts.embedding_width) for _ in parts.widths)
        self.gate = nn.Linear(sum(parts.widths), len(parts.widths))
        self.register_buffer("index_of_code", combination_codes(parts.combinations), persistent=False)
        self.index_of_code: Tensor

    def losses(self, seen: MaskedBatch, generator: torch.Generator) -> StepLosses:
        fewer = nested(seen.masks, generator, seen.part)
        needed = seen.masks.any(0).cpu() if seen.needed is None else seen.needed
        experts = self.experts(seen.features, needed, seen.needed_on_any_rank)
        task = torch.stack(
            [self.criterion(self.mix(seen.features, experts, masks), seen.labels) for masks in (seen.masks, fewer)]
        )
        ranking = ranking_loss(task[0], task[1])
        both = task[0].mean() + task[1].mean()
        total = both + self.settings.ranking_weight * ranking
        parts = {"task": both.detach(), "ranking": ranking.detach()}
        codes = (fewer.long() << torch.arange(fewer.shape[-1], device=fewer.device)).sum(-1)
        combination = torch.cat([seen.combination, self.index_of_code[codes]])
        return StepLosses(total, task.detach().flatten(0, 1), combination, None, parts)

    def predict(self, features: Features, masks: Tensor) -> Prediction:
        return Prediction(self.mix(features, self.experts(features), masks), None, None)

    def summed(self) -> Summed | None:
        own = type(self)
        same = own.predict is SimMLM.predict and own.mix is SimMLM.mix
        return SummedExperts(self) if same and isinstance(self.heads[0], ClassificationHead) else None

    def experts(
        self, features: Features, needed: Tensor | None = None, needed_on_any_rank: Tensor | None = None
    ) -> Tensor:
        """(M, B, *P, L) logits of each modality alone, zero where `needed` (B, M), bool on the CPU, is False.

        An expert sees the samples that have its modality only, so that batch normalisation counts no other; it is run
        where a sample of any rank has it, `needed_on_any_rank` (M,).
        """
        if needed is None:
            return torch.stack([self.expert(m, features) for m in range(len(features.contexts))])
        logits: list[Tensor | None] = []
        for m, rows in enumerate(rows_by_modality(needed, features.contexts[0].device)):
            run = len(rows) > 0 if needed_on_any_rank is None else bool(needed_on_any_rank[m])
            logits.append(self.expert(m, features, rows) if run else None)
        known = next(expert for expert in logits if expert is not None)
        return torch.stack([torch.zeros_like(known) if expert is None else expert for expert in logits])

    def expert(self, m: int, features: Features, rows: Tensor | None = None) -> Tensor:
        """(B, *P, L) logits of one modality at `rows`, int64, and zero elsewhere; by default of all samples."""
        context, skips = features.contexts[m], features.skips
        count = len(context)
        if rows is not None and len(rows) < count:
            context = context.index_select(0, rows)
            skips = [[f.index_select(0, rows) for f in level] for level in skips]
        alone = torch.zeros((1, len(context), len(features.contexts)), dtype=torch.bool, device=context.device)
        alone[..., m] = True
        logits: Tensor = self.heads[m](self.embed[m](self.trunks[m](context[None])), skips, alone)[0]
        if rows is None or len(context) == count:
            return logits
        return logits.new_zeros((count, *logits.shape[1:])).index_copy(0, rows, logits)

    def mix(self, features: Features, experts: Tensor, masks: Tensor) -> Tensor:
        """(K, B, *P, L): Σ_m w_m · experts_m, w a softmax over the modalities that are present."""
        kept = [pooled(keep_present(masks, m, f)) for m, f in enumerate(features.contexts)]
        scores = self.gate(torch.cat(kept, dim=-1)).masked_fill(~masks, -math.inf)
        weights = scores.softmax(-1)  # (K, B, M)
        present_only = torch.stack([keep_present(masks, m, expert) for m, expert in enumerate(experts)])
        spread = weights.movedim(-1, 0).reshape(*present_only.shape[:3], *[1] * (present_only.ndim - 3))
        mixed: Tensor = (spread * present_only).sum(0)
        return mixed


class SummedExperts(Summed):
    """The mixtures of all combinations: the gate's scores are sums, and an expert's logits are the same in each."""

    def __init__(self, method: SimMLM) -> None:
        self.method = method

    def logits(self, contexts: Sequence[Tensor], masks: Tensor) -> Tensor:
        experts = self.method.experts(Features(contexts, []))
        scores = TermSums(Affine.of(self.method.gate), averaged(concat_terms(contexts, masks))).of()  # (C, B, M)
        weights = scores.masked_fill(~masks[:, None], -math.inf).softmax(-1)
        return torch.einsum("cbm,mbl->cbl", weights, experts)

    def described(self, contexts: Sequence[Tensor], masks: Tensor) -> Iterator[DescribedCombinations]:
        return iter(())


def nested(masks: Tensor, generator: torch.Generator, part: BatchShard | None = None) -> Tensor:
    """For each of (K, B, M) masks a non-empty proper subset, its size uniform; a single modality is its own subset."""
    device, part = masks.device, part or alone(masks.shape[1])
    order = part.draw(torch.rand, masks.shape, 1, generator, device=device).masked_fill(~masks, -1.0)
    size = masks.sum(-1)
    draw = part.draw(torch.rand, size.shape, 1, generator, device=device)
    kept = 1 + (draw * (size - 1).clamp(min=1)).long()
    rank = order.argsort(-1, descending=True).argsort(-1)
    return masks & (rank < kept[..., None])


def ranking_loss(more: Tensor, fewer: Tensor) -> Tensor:
    """() mean of max(0, loss(more) − loss(fewer)), from the losses (K, B) of nested combinations."""
    return (more - fewer).clamp(min=0).mean()


def combination_codes(combinations: Combinations) -> Tensor:
    """(2^M,) the index of the combination whose modalities are the bits of the position."""
    index = torch.zeros(2 ** len(combinations.modalities), dtype=torch.int64)
    for c, member in enumerate(combinations.members):
        index[sum(1 << m for m in member)] = c
    return index
