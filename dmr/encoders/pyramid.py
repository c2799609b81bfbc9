"""The small encoder of images for segmentation. Letters: B samples, C channels, H height, W width, w the width."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from dmr.encoders.base import EncoderModule, EncoderSettings
from dmr.networks.layers import ResidualBlock, group_norm
from dmr.settings import setting


class Pyramid(EncoderModule):
    """(B, C, H, W) → (B, w, H, W), (B, 2w, H/2, W/2), (B, 4w, H/4, W/4), rounded up."""

    def __init__(self, shape: tuple[int, ...], width: int) -> None:
        super().__init__()
        self.widths = (width, 2 * width, 4 * width)
        self.stem = nn.Sequential(nn.Conv2d(shape[0], width, 3, padding=1, bias=False), group_norm(width), nn.ReLU())
        self.halve = ResidualBlock(width, 2 * width, stride=2)
        self.quarter = nn.Sequential(ResidualBlock(2 * width, 4 * width, stride=2), ResidualBlock(4 * width, 4 * width))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        fine = self.stem(x)
        half = self.halve(fine)
        return fine, half, self.quarter(half)


@dataclass(frozen=True)
class PyramidSettings(EncoderSettings):
    """A convolution and three residual blocks with group normalisation, for small images (C, H, W) with label maps."""

    width: int = setting(16, ge=4)

    Module = Pyramid
    dimensions = 3
    task = "segmentation"
