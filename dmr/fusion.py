"""Fusion of the modalities that are present: features (B, *S, D) of each to (K, B, *S, Z).

Letters: M modalities, B samples, K combinations per sample, S positions of a map, D features, Z fused features.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

FusionKind = Literal["concat", "mean", "attention"]
FUSIONS: tuple[str, ...] = get_args(FusionKind)


def present(masks: Tensor, modality: int, features: Tensor) -> Tensor:
    """(K, B, 1, ...) of `masks` (K, B, M): whether the modality is there, to go with its features (B, *S, D)."""
    return masks[..., modality].reshape(*masks.shape[:2], *[1] * (features.ndim - 1))


def keep_present(masks: Tensor, modality: int, features: Tensor) -> Tensor:
    """(K, B, *S, D): the features (B, *S, D) where the modality is there, zero elsewhere.

    `where`, not a product: the features of an absent modality may be NaN or infinite.
    """
    return torch.where(present(masks, modality, features), features, 0.0)


def mean_present(masks: Tensor, features: Sequence[Tensor]) -> Tensor:
    """(K, B, *S, D): the mean over the modalities that are there, of features (B, *S, D) of equal width."""
    total = torch.stack([keep_present(masks, m, f) for m, f in enumerate(features)]).sum(0)
    return total / count_present(masks, features[0])


def count_present(masks: Tensor, features: Tensor) -> Tensor:
    """(K, B, 1, ...) how many modalities are there, at least 1."""
    return masks.sum(-1).clamp(min=1).reshape(*masks.shape[:2], *[1] * (features.ndim - 1))


class FusionModule(nn.Module):
    """Features (B, *S, D) of each modality and masks (K, B, M) to (K, B, *S, `width`)."""

    width: int


class Fusion(FusionModule):
    """concat: features side by side, absent ones zero. mean: the mean of linear projections of those present.
    attention: their mean weighted by a softmax, over those present, of a learned score of each.
    """

    def __init__(self, widths: Sequence[int], kind: FusionKind) -> None:
        super().__init__()
        self.kind = kind
        self.width = sum(widths)
        if kind != "concat":
            self.project = nn.ModuleList(nn.Linear(width, self.width) for width in widths)
        if kind == "attention":
            self.score = nn.ModuleList(nn.Linear(width, 1) for width in widths)

    def forward(self, features: Sequence[Tensor], masks: Tensor) -> Tensor:
        """(K, B, *S, Z) from features (B, *S, D) of each modality and masks (K, B, M)."""
        if self.kind == "concat":
            return torch.cat([keep_present(masks, m, f) for m, f in enumerate(features)], dim=-1)
        projected = [project(f) for project, f in zip(self.project, features, strict=True)]
        if self.kind == "mean":
            return mean_present(masks, projected)
        scores = torch.stack(
            [
                torch.where(present(masks, m, f), score(f), -math.inf)
                for m, (score, f) in enumerate(zip(self.score, features, strict=True))
            ]
        )
        kept = torch.stack([keep_present(masks, m, f) for m, f in enumerate(projected)])
        return (scores.softmax(0) * kept).sum(0)
