"""The encoder of videos, a frame at a time. Letters: B samples, T frames, C channels, H height, W width, D features."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from dmr.encoders.base import EncoderModule, EncoderSettings
from dmr.encoders.resnet import ResNet18
from dmr.encoders.resnet_small import SmallResNet
from dmr.settings import setting


class Frames(EncoderModule):
    """(B, T, C, H, W) → (B, D): an image encoder on each frame, and the mean over the frames."""

    def __init__(self, shape: tuple[int, ...], frame: Literal["small", "resnet18"], width: int) -> None:
        super().__init__()
        self.frame = ResNet18(shape[1:]) if frame == "resnet18" else SmallResNet(shape[1:], width, dropout=0.0)
        self.widths = self.frame.widths

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        (features,) = self.frame(x.flatten(0, 1))
        return (features.unflatten(0, x.shape[:2]).mean(dim=1),)


@dataclass(frozen=True)
class FramesSettings(EncoderSettings):
    """An image encoder on each frame of (T, C, H, W) and the mean over time.

    `frame` is `small` (`resnet_small` of that `width`) or `resnet18` (which has a width of its own, 512); `weights` are
    the image encoder's.
    """

    frame: Literal["small", "resnet18"] = "small"
    width: int = setting(64, ge=8)

    Module = Frames
    dimensions = 4
    weights_for = "frame"
