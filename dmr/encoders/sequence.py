"""The encoder of sequences. Letters: B samples, C channels, T time steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from dmr.encoders.base import EncoderModule, EncoderSettings
from dmr.networks.layers import BatchNorm1d, group_norm
from dmr.settings import setting

Pooling = Literal["mean", "max"]
Norm = Literal["group", "batch"]
POOLINGS: dict[str, type[nn.Module]] = {"mean": nn.AdaptiveAvgPool1d, "max": nn.AdaptiveMaxPool1d}
NORMS: dict[str, Callable[[int], nn.Module]] = {"group": group_norm, "batch": BatchNorm1d}


class Sequence(EncoderModule):
    """(B, C, T) → (B, width · segments), the mean or maximum over each of so many equal parts of the time; each of the
    three convolutions halves T.
    """

    def __init__(
        self, shape: tuple[int, ...], width: int, segments: int, pooling: Pooling, norm: Norm, dropout: float
    ) -> None:
        super().__init__()
        self.widths = (width * segments,)
        narrow = max(8, width // 2)
        self.layers = nn.Sequential(
            *_block(shape[0], narrow, 7, NORMS[norm]),
            *_block(narrow, width, 5, NORMS[norm]),
            *_block(width, width, 3, NORMS[norm]),
            POOLINGS[pooling](segments),
            nn.Flatten(),
            nn.Dropout(dropout),
        )

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return (self.layers(x),)


def _block(inputs: int, outputs: int, kernel: int, norm: Callable[[int], nn.Module]) -> tuple[nn.Module, ...]:
    convolution = nn.Conv1d(inputs, outputs, kernel, stride=2, padding=kernel // 2, bias=False)
    return convolution, norm(outputs), nn.ReLU()


@dataclass(frozen=True)
class SequenceSettings(EncoderSettings):
    """Three convolutions over time with group or batch normalisation and a mean or maximum over time, for sequences
    (C, T).

    `segments`: it is taken over each of so many equal parts of the time, which keeps what came first.
    """

    width: int = setting(64, ge=8)
    segments: int = setting(1, ge=1)
    pooling: Pooling = "mean"
    norm: Norm = "group"
    dropout: float = setting(0.0, ge=0.0, lt=1.0)

    Module = Sequence
    dimensions = 2
