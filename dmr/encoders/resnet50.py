"""ResNet-50 as an encoder for segmentation. Letters: B samples, C channels, H height, W width."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from dmr.encoders.base import EncoderSettings
from dmr.encoders.resnet import Bottleneck, Stem, initialise, stage
from dmr.networks.layers import BatchNorm2d

CONTEXT_WIDTH = 512


class ResNet50(Stem):
    """(B, C, H, W) → maps of 64, 256, 512 and 1024 channels at 1/2, 1/4, 1/8 and 1/16 of H and W, and the context of
    512 at 1/32, all rounded up. The context is projected from 2048 channels: fusing grows with their number.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__(shape[0])
        self.widths = (64, 256, 512, 1024, CONTEXT_WIDTH)
        self.layer1 = stage(Bottleneck, 64, 64, 3, stride=1)
        self.layer2 = stage(Bottleneck, 256, 128, 4, stride=2)
        self.layer3 = stage(Bottleneck, 512, 256, 6, stride=2)
        self.layer4 = stage(Bottleneck, 1024, 512, 3, stride=2)
        self.projection = nn.Sequential(
            nn.Conv2d(2048, CONTEXT_WIDTH, 1, bias=False), BatchNorm2d(CONTEXT_WIDTH), nn.ReLU()
        )
        initialise(self)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        levels = [self.stem(x)]
        levels.append(self.layer1(self.pool(levels[-1])))
        levels.append(self.layer2(levels[-1]))
        levels.append(self.layer3(levels[-1]))
        levels.append(self.projection(self.layer4(levels[-1])))
        return tuple(levels)


@dataclass(frozen=True)
class ResNet50Settings(EncoderSettings):
    """ResNet-50 with its five levels, for images (C, H, W) with label maps."""

    Module = ResNet50
    dimensions = 3
    task = "segmentation"
    own = ("projection.",)
