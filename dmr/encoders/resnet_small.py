"""A small residual network for images and spectrograms. Letters: B samples, C channels, H height, W width."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from dmr.encoders.base import EncoderModule, EncoderSettings
from dmr.networks.layers import ResidualBlock, group_norm
from dmr.settings import setting


class SmallResNet(EncoderModule):
    """(B, C, H, W) → (B, width): three stages of one residual block, the second and third of which halve H and W."""

    def __init__(self, shape: tuple[int, ...], width: int, dropout: float) -> None:
        super().__init__()
        self.widths = (width,)
        first, second = max(8, width // 4), max(8, width // 2)
        self.layers = nn.Sequential(
            nn.Conv2d(shape[0], first, 3, padding=1, bias=False),
            group_norm(first),
            nn.ReLU(),
            ResidualBlock(first, first),
            ResidualBlock(first, second, stride=2),
            ResidualBlock(second, width, stride=2),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Dropout(dropout),
        )

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return (self.layers(x),)


@dataclass(frozen=True)
class SmallResNetSettings(EncoderSettings):
    """Seven 3×3 convolutions in residual blocks with group normalisation and a global mean, for images (C, H, W)."""

    width: int = setting(64, ge=8)
    dropout: float = setting(0.0, ge=0.0, lt=1.0)

    Module = SmallResNet
    dimensions = 3
