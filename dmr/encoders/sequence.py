"""The encoder of sequences. Letters: B samples, C channels, T time steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from dmr.encoders.base import EncoderModule, EncoderSettings
from dmr.networks.layers import group_norm
from dmr.settings import setting

Pooling = Literal["mean", "max"]
POOLINGS: dict[str, type[nn.Module]] = {"mean": nn.AdaptiveAvgPool1d, "max": nn.AdaptiveMaxPool1d}


class Sequence(EncoderModule):
    """(B, C, T) → (B, width · segments), the mean or maximum over each of so many equal parts of the time; each of the
    three convolutions halves T.
    """

    def __init__(self, shape: tuple[int, ...], width: int, segments: int, pooling: Pooling, dropout: float) -> None:
        super().__init__()
        self.widths = (width * segments,)
        narrow = max(8, width // 2)
        self.layers = nn.Sequential(
            *_block(shape[0], narrow, kernel=7),
            *_block(narrow, width, kernel=5),
            *_block(width, width, kernel=3),
            POOLINGS[pooling](segments),
            nn.Flatten(),
            nn.Dropout(dropout),
        )

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return (self.layers(x),)


def _block(inputs: int, outputs: int, kernel: int) -> tuple[nn.Module, ...]:
    convolution = nn.Conv1d(inputs, outputs, kernel, stride=2, padding=kernel // 2)
    return convolution, group_norm(outputs), nn.ReLU()


@dataclass(frozen=True)
class SequenceSettings(EncoderSettings):
    """Three convolutions over time with group normalisation and a mean or maximum over time, for sequences (C, T).

    `segments`: it is taken over each of so many equal parts of the time, which keeps what came first.
    """

    width: int = setting(64, ge=8)
    segments: int = setting(1, ge=1)
    pooling: Pooling = "mean"
    dropout: float = setting(0.0, ge=0.0, lt=1.0)

    Module = Sequence
    dimensions = 2
