"""Modality dropout: one deterministic representation of whatever is present.

The baseline DMRNet decouples from: its task loss on the mean, without noise, KL or hard-combination term.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dmr.methods.base import Method, MethodSettings, Prediction, StepLosses
from dmr.methods.heads import HeadNorm, ProjectionHead


@dataclass(frozen=True)
class DropoutSettings(MethodSettings):
    head_norm: HeadNorm = "batch"


class Dropout(Method):
    """Projection to an embedding and a linear classifier, trained at the drawn combination."""

    Settings = DropoutSettings
    search_space: ClassVar[dict[str, Any]] = {}

    def __init__(self, settings: DropoutSettings, fused_width: int, num_classes: int, num_combinations: int) -> None:
        super().__init__(settings, fused_width, num_classes, num_combinations)
        self.embed = ProjectionHead(fused_width, settings.head_norm)
        self.classify = nn.Linear(fused_width, num_classes)

    def losses(self, fused: Tensor, labels: Tensor, combination: Tensor, generator: torch.Generator) -> StepLosses:
        logits = self.predict(fused).logits
        task = F.cross_entropy(logits.flatten(0, 1), labels.repeat(len(fused)), reduction="none")
        task = task.view(combination.shape)
        mean = task.mean()
        return StepLosses(mean, task.detach(), None, {"task": mean.detach()})

    def predict(self, fused: Tensor) -> Prediction:
        return Prediction(self.classify(self.embed(fused)), None)
