"""What the methods put on fused features: projections, the layers all modalities share, and the task's head.

Letters: B samples, K combinations per sample, S positions of a map, D features, Z features of the embedding, P pixels
of a label map, L classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from dmr.fusion import keep_present
from dmr.networks.decoders import Decoder
from dmr.networks.layers import BatchNorm1d

HeadNorm = Literal["none", "layer", "batch"]


class ProjectionHead(nn.Module):
    """Linear and a normalisation: (..., D) → (..., Z). The published head is Linear + BatchNorm; on a map, whose
    channels are last, this is a 1×1 convolution and its BatchNorm.

    With `batch`, E_batch[μ_d²] and E_batch[s_d] are fixed by the affine parameters, which makes part of the KL term a
    constant plus weight decay on them; `layer` and `none` do not.
    """

    def __init__(self, width: int, norm: HeadNorm, out: int | None = None) -> None:
        super().__init__()
        out = width if out is None else out
        self.linear = nn.Linear(width, out)
        kinds: dict[HeadNorm, nn.Module] = {
            "batch": BatchNorm1d(out),
            "layer": nn.LayerNorm(out),
            "none": nn.Identity(),
        }
        self.norm = kinds[norm]

    def forward(self, features: Tensor) -> Tensor:
        projected: Tensor = self.linear(features)
        normalised: Tensor = self.norm(projected.flatten(0, -2))
        return normalised.view(projected.shape)


class Trunk(nn.Module):
    """Layers that all modalities share, on the fused map: (K, B, *S, D) → (K, B, *S, Z)."""

    def __init__(self, layers: nn.Module | None, width: int) -> None:
        super().__init__()
        self.layers = layers
        self.width = width

    def forward(self, fused: Tensor) -> Tensor:
        if self.layers is None:
            return fused
        out: Tensor = self.layers(fused.flatten(0, 1).movedim(-1, 1))
        return out.movedim(1, -1).reshape(*fused.shape[:2], *out.shape[2:], out.shape[1])


def pooled(embedding: Tensor) -> Tensor:
    """(K, B, Z): the mean over the positions of (K, B, *S, Z)."""
    return embedding.flatten(2, -2).mean(2) if embedding.ndim > 3 else embedding


class TaskHead(nn.Module):
    """From an embedding (K, B, *S, Z) to logits (K, B, *P, L)."""

    def forward(self, embedding: Tensor, skips: Sequence[Sequence[Tensor]], masks: Tensor) -> Tensor:
        """`skips`: of each level, finest first, of each modality (B, D, H, W). `masks` (K, B, M)."""
        raise NotImplementedError


class ClassificationHead(TaskHead):
    """The mean over positions, where there are any, and a linear layer."""

    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__()
        self.classify = nn.Linear(width, num_classes)

    def forward(self, embedding: Tensor, skips: Sequence[Sequence[Tensor]], masks: Tensor) -> Tensor:
        logits: Tensor = self.classify(pooled(embedding))
        return logits


class SegmentationHead(TaskHead):
    """A decoder from the embedding, with the skips of the modalities that are present at every level."""

    def __init__(
        self, width: int, skip_widths: Sequence[Sequence[int]], num_classes: int, size: tuple[int, int]
    ) -> None:
        """`skip_widths`: of each level, finest first, of each modality. `size`: (H, W) of the label maps."""
        super().__init__()
        self.size = size
        self.decoder = Decoder(width, tuple(sum(widths) for widths in skip_widths), num_classes)

    def forward(self, embedding: Tensor, skips: Sequence[Sequence[Tensor]], masks: Tensor) -> Tensor:
        fused = [
            torch.cat([keep_present(masks, m, f) for m, f in enumerate(level)], dim=2).flatten(0, 1) for level in skips
        ]
        logits: Tensor = self.decoder(embedding.flatten(0, 1).movedim(-1, 1), fused, self.size)
        return logits.movedim(1, -1).reshape(*embedding.shape[:2], *self.size, logits.shape[1])
