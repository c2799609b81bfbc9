"""Heads on fused vectors that several methods share.

Letters: K combinations a sample, B samples, Z fused features.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

HeadNorm = Literal["batch", "layer", "none"]


class ProjectionHead(nn.Module):
    """Linear and a normalisation: (K, B, Z) → (K, B, Z). The published head is Linear + BatchNorm.

    With `batch`, E_batch[μ_d²] and E_batch[s_d] are fixed by the affine parameters, which makes part of the KL term a
    constant plus weight decay on them; `layer` and `none` do not.
    """

    def __init__(self, width: int, norm: HeadNorm) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)
        kinds: dict[HeadNorm, nn.Module] = {
            "batch": nn.BatchNorm1d(width),
            "layer": nn.LayerNorm(width),
            "none": nn.Identity(),
        }
        self.norm = kinds[norm]

    def forward(self, fused: Tensor) -> Tensor:
        normalised: Tensor = self.norm(self.linear(fused).flatten(0, -2))
        return normalised.view(fused.shape)
