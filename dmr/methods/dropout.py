"""Modality dropout: one deterministic representation of whatever is present.

The baseline DMRNet decouples from: its task loss on the mean, without noise, KL or hard-combination term.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from dmr.fusion import FusionModule
from dmr.methods.base import Components, Features, MaskedBatch, Method, MethodSettings, Prediction, StepLosses
from dmr.methods.heads import HeadNorm, ProjectionHead, pooled
from dmr.methods.summed_heads import Summed, summed_heads


@dataclass(frozen=True)
class DropoutSettings(MethodSettings):
    head_norm: HeadNorm = "none"


class Dropout(Method):
    """Fusion, projection to an embedding and the task head, trained at the drawn combination."""

    Settings = DropoutSettings
    search_space: ClassVar[dict[str, Any]] = {}

    def __init__(self, settings: DropoutSettings, parts: Components, fusion: FusionModule | None = None) -> None:
        """`fusion` replaces the one of the study file."""
        super().__init__(settings, parts)
        self.fusion = parts.fusion() if fusion is None else fusion
        self.trunk = parts.trunk(self.fusion.width)
        self.embed = ProjectionHead(self.trunk.width, settings.head_norm, parts.embedding_width)
        self.head = parts.head(parts.embedding_width)

    def losses(self, seen: MaskedBatch, generator: torch.Generator) -> StepLosses:
        return self.with_terms(seen, self.fusion(seen.features.contexts, seen.masks), {})

    def with_terms(self, seen: MaskedBatch, fused: Tensor, terms: Mapping[str, tuple[float, Tensor]]) -> StepLosses:
        """The task loss on fused features (K, B, *S, D), and further terms: weight and value () by name."""
        task = self.criterion(self.predict_fused(fused, seen.features, seen.masks).logits, seen.labels)
        total = task.mean() + sum(weight * value for weight, value in terms.values())
        parts = {"task": task.mean().detach()} | {name: value.detach() for name, (_, value) in terms.items()}
        return StepLosses(total, task.detach(), seen.combination, None, parts)

    def predict(self, features: Features, masks: Tensor) -> Prediction:
        return self.predict_fused(self.fusion(features.contexts, masks), features, masks)

    def predict_fused(self, fused: Tensor, features: Features, masks: Tensor) -> Prediction:
        """From fused features (K, B, *S, D)."""
        embedding = self.embed(self.trunk(fused))
        return Prediction(self.head(embedding, features.skips, masks), None, pooled(embedding))

    def summed(self) -> Summed | None:
        own = type(self)
        if own.predict is not Dropout.predict or own.predict_fused is not Dropout.predict_fused:
            return None
        return summed_heads(self.fusion, self.trunk, self.embed, self.head)
