"""The small encoder of images and spectrograms. Letters: B samples, C channels, H height, W width."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from dmr.encoders.base import EncoderModule, EncoderSettings
from dmr.networks.layers import group_norm
from dmr.settings import setting


class CNN(EncoderModule):
    """(B, C, H, W) → (B, width); the second and third convolution halve H and W."""

    def __init__(self, shape: tuple[int, ...], width: int, dropout: float) -> None:
        super().__init__()
        self.widths = (width,)
        narrow = max(8, width // 2)
        self.layers = nn.Sequential(
            *_block(shape[0], narrow, stride=1),
            *_block(narrow, width, stride=2),
            *_block(width, width, stride=2),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Dropout(dropout),
        )

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return (self.layers(x),)


def _block(inputs: int, outputs: int, stride: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False), group_norm(outputs), nn.ReLU()


@dataclass(frozen=True)
class CNNSettings(EncoderSettings):
    """Three 3×3 convolutions with group normalisation and a global mean, for small images (C, H, W)."""

    width: int = setting(64, ge=8)
    dropout: float = setting(0.0, ge=0.0, lt=1.0)

    Module = CNN
    dimensions = 3
