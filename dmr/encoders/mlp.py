"""The encoder of vectors. Letters: B samples, F input features."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor, nn

from dmr.encoders.base import EncoderModule, EncoderSettings
from dmr.settings import setting


class MLP(EncoderModule):
    """(B, F) → (B, width)."""

    def __init__(self, shape: tuple[int, ...], width: int, dropout: float) -> None:
        super().__init__()
        self.widths = (width,)
        self.layers = nn.Sequential(
            nn.Flatten(),
            nn.Linear(math.prod(shape), width),
            nn.LayerNorm(width),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(width, width),
            nn.LayerNorm(width),
            nn.ReLU(),
        )

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return (self.layers(x),)


@dataclass(frozen=True)
class MLPSettings(EncoderSettings):
    """Two linear layers with layer normalisation, for vectors (F,)."""

    width: int = setting(64, ge=1)
    dropout: float = setting(0.0, ge=0.0, lt=1.0)

    Module = MLP
    dimensions = 1
