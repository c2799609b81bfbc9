"""MMANet: a teacher that sees all modalities is distilled with its margins in mind, and the combinations whose
predictions lie farthest from the full ones get extra weight.

Wei, Luo, Luo, "MMANet: Margin-aware Distillation and Modality-aware Regularization for Incomplete Multimodal Learning",
CVPR 2023 (arXiv 2304.08028), sections 3.2 and 3.3. The teacher, a network of its own, is trained first, as `full_only`
is: for `teacher_epochs` epochs of its own with its own schedule, so that the student has as many epochs as any other
method. Then it is fixed; its last weights teach. It costs what another run costs, which is part of the first epoch: of
its time, its encoder passes, and what is trained again where that epoch is interrupted.

Letters: M modalities, B samples, K combinations per sample, C combinations, P pixels of a label map, L classes,
Z features of the embedding, V hard combinations.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from dmr.combinations import Combinations
from dmr.distributed.ranks import BatchShard, Ranks, alone
from dmr.methods.base import (
    Components,
    MaskedBatch,
    Prediction,
    StepLosses,
    TeacherTraining,
    largest,
    sums_by_combination,
)
from dmr.methods.dropout import Dropout, DropoutSettings
from dmr.methods.full_only import FullOnlySettings
from dmr.settings import setting


@dataclass(frozen=True)
class MMANetSettings(DropoutSettings):
    """`hard_count: null` takes half of the combinations that are not full, once `warmup_epochs` are over;
    `teacher_epochs: null` as many as the student has.
    """

    distillation_weight: float = setting(1.0, ge=0.0)
    hard_weight: float = setting(0.3, ge=0.0)
    hard_count: int | None = setting(None, ge=0)
    teacher_epochs: int | None = setting(None, ge=1)
    warmup_epochs: int = setting(6, ge=0)


class MMANet(Dropout):
    """`dropout` as the student of a `dropout` network that always has all modalities."""

    Settings = MMANetSettings
    search_space: ClassVar[dict[str, Any]] = {
        "model.distillation_weight": {"log_uniform": [0.1, 30.0]},
        "model.hard_weight": {"uniform": [0.0, 1.0]},
    }

    def __init__(self, settings: MMANetSettings, parts: Components) -> None:
        super().__init__(settings, parts)
        self.of_teacher = FullOnlySettings(head_norm=settings.head_norm)
        self.teacher = parts.network(parts.combinations.modalities, self.of_teacher).requires_grad_(False)
        self.register_buffer("hard", torch.zeros(len(parts.combinations), dtype=torch.bool))
        self.register_buffer("farness", torch.zeros((2, len(parts.combinations)), dtype=torch.float64))
        self.hard: Tensor
        self.farness: Tensor

    def losses(self, seen: MaskedBatch, generator: torch.Generator) -> StepLosses:
        student = self.predict(seen.features, seen.masks)
        task = self.criterion(student.logits, seen.labels)
        hard = torch.where(self.hard[seen.combination], task, 0.0).mean()
        total = task.mean() + self.settings.hard_weight * hard
        parts = {"task": task.mean().detach(), "hard": hard.detach()}
        complete, part = seen.having(self.teacher.combinations[-1])
        inputs, labels = seen.at(complete)
        margin = task.new_zeros(())
        if part.whole:
            teacher = self.teach(inputs, len(labels))
            logits = student.logits.detach().index_select(1, complete)
            self.remember(seen.combination.index_select(1, complete), divergence(teacher.logits, logits), part.ranks)
            margin = part.weighed(self.distillation(student, teacher, complete, part), seen.part)
            total = total + self.settings.distillation_weight * margin
        parts["distillation"] = margin.detach()
        return StepLosses(total, task.detach(), seen.combination, None, parts)

    @torch.no_grad()
    def teach(self, inputs: Mapping[str, Tensor], count: int) -> Prediction:
        """The teacher's prediction (1, b, ...) from the inputs of `count` complete samples."""
        self.teacher.encoded += count * len(inputs)
        return self.teacher.predict(inputs, self.teacher.combinations[-1:])

    def distillation(self, student: Prediction, teacher: Prediction, complete: Tensor, part: BatchShard) -> Tensor:
        """() from the student on all samples and the teacher on those at the positions `complete` (b,)."""
        assert student.embedding is not None
        assert teacher.embedding is not None
        embedding = student.embedding.index_select(1, complete)
        return margin_aware_distillation(embedding, teacher.embedding[0], entropy(teacher.logits[0]), part)

    def remember(self, combination: Tensor, far: Tensor, ranks: Ranks) -> None:
        """Add how far predictions lie from the full ones, (K, B), to the sums of their combinations (K, B)."""
        rows = torch.stack([far, torch.ones_like(far)])
        self.farness += ranks.total(sums_by_combination(rows, combination, self.farness.shape[1]))

    def teacher_training(self) -> TeacherTraining:
        return TeacherTraining(self.teacher, self.of_teacher, self.settings.teacher_epochs)

    def start_epoch(self, epoch: int, combinations: Combinations, generator: torch.Generator) -> None:
        """When the warm-up is over, what was farthest from the teacher is hard."""
        self.teacher.eval()
        if epoch == self.settings.warmup_epochs:
            self.hard.copy_(farthest(self.farness.cpu(), combinations, self.settings.hard_count))

    def hard_combinations(self) -> Tensor:
        return self.hard

    @staticmethod
    def warmup_of(settings: MMANetSettings) -> int:
        return settings.warmup_epochs


def margin_aware_distillation(
    student: Tensor, teacher: Tensor, uncertainty: Tensor, part: BatchShard | None = None
) -> Tensor:
    """() (1/KB²) Σ_k Σ_i w_i Σ_j (G^t_ij − G^s_kij)² of the Gram matrices G = z zᵀ, z being embeddings of length 1 of
    the student (K, B, Z) and the teacher (B, Z). w = `uncertainty` (B,) over its mean: samples near the teacher's
    decision boundary count more (the paper's equations 3 to 6). On several ranks i are the rank's own samples, the mean
    over j and that of the uncertainty are over all.
    """
    part = part or alone(len(teacher))
    zs, zt = F.normalize(student.float(), dim=-1), F.normalize(teacher.float(), dim=-1)
    with torch.autocast(zs.device.type, enabled=False):  # it is a difference of what is nearly equal
        difference = zt @ part.gathered(zt, 0).mT - zs @ part.gathered(zs, 1).mT  # (K, B, G)
    mean = part.ranks.total(uncertainty.sum()) / part.whole
    weights = uncertainty / mean.clamp(min=1e-12)
    return (weights * difference.square().mean(-1)).mean()


def entropy(logits: Tensor) -> Tensor:
    """(B,) entropy of the predicted classes, mean over pixels, from logits (B, *P, L)."""
    log = logits.float().log_softmax(-1)
    each = -(log.exp() * log).sum(-1)
    return each.flatten(1).mean(1) if each.ndim > 1 else each


def divergence(full: Tensor, other: Tensor) -> Tensor:
    """(K, B) KL(p_full ‖ p), mean over pixels, from logits (1, B, *P, L) and (K, B, *P, L)."""
    log_full, log_other = full.float().log_softmax(-1), other.float().log_softmax(-1)
    each = (log_full.exp() * (log_full - log_other)).sum(-1)
    return each.flatten(2).mean(2) if each.ndim > 2 else each


def farthest(sums: Tensor, combinations: Combinations, count: int | None) -> Tensor:
    """(C,) bool: the `count` combinations, not the full one, of the largest mean divergence.

    Args:
        sums: (2, C) sums of divergence, and counts. What was never drawn is never hard.
    """
    far, seen = sums
    return largest(far / seen.clamp(min=1), seen > 0, combinations, count)
