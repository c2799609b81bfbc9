"""HeMIS: the embedding of a combination is the mean and the variance of the projected features that are present.

Havaei, Guizard, Chapados, Bengio, "HeMIS: Hetero-Modal Image Segmentation", MICCAI 2016 (arXiv 1607.05194).

Letters: M modalities, B samples, K combinations per sample, S positions of a map, D features, Z fused features.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dmr.fusion import FusionModule, FusionTerm, count_present, mean_present, mean_weights, present
from dmr.methods.base import Components
from dmr.methods.dropout import Dropout, DropoutSettings


class HeMISSettings(DropoutSettings):
    """Those of `dropout`."""


class HeMIS(Dropout):
    """`dropout` with another fusion: mean and variance of linear projections, each half of the fusion width."""

    Settings = HeMISSettings

    def __init__(self, settings: HeMISSettings, parts: Components) -> None:
        super().__init__(settings, parts, Moments(parts.widths, sum(parts.widths)))


class Moments(FusionModule):
    """(B, *S, D) of each modality to (K, B, *S, Z): mean and variance side by side."""

    def __init__(self, widths: Sequence[int], width: int) -> None:
        super().__init__()
        half = (width + 1) // 2
        self.width = 2 * half
        self.project = nn.ModuleList(nn.Linear(own, half) for own in widths)

    def forward(self, features: Sequence[Tensor], masks: Tensor) -> Tensor:
        projected = [project(f) for project, f in zip(self.project, features, strict=True)]
        return torch.cat(moments(masks, projected), dim=-1)

    @property
    def is_sum(self) -> bool:
        return True

    def terms(self, features: Sequence[Tensor], masks: Tensor) -> list[FusionTerm]:
        """The variance of n values is Σ over pairs of the squares of their differences, over n (n − 1)."""
        projected = [project(f) for project, f in zip(self.project, features, strict=True)]
        there, half, rest = masks.T.float(), slice(self.width // 2), slice(self.width // 2, self.width)  # (M, C)
        means = [FusionTerm(f, half, weight) for f, weight in zip(projected, mean_weights(masks), strict=True)]
        count = there.sum(0)
        of_pair = 1.0 / (count * (count - 1)).clamp(min=1)
        pairs = itertools.combinations(zip(projected, there, strict=True), 2)
        return means + [FusionTerm((f - g).square(), rest, one * two * of_pair) for (f, one), (g, two) in pairs]


def moments(masks: Tensor, features: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and unbiased variance over the modalities that are present, each (K, B, *S, D); of one the variance is 0."""
    mean = mean_present(masks, features)
    squares = [(f - mean).square() for f in features]  # (K, B, *S, D) each
    there = [present(masks, m, f) for m, f in enumerate(features)]
    total = torch.stack([torch.where(mask, square, 0.0) for mask, square in zip(there, squares, strict=True)]).sum(0)
    return mean, total / (count_present(masks, features[0]) - 1).clamp(min=1)
