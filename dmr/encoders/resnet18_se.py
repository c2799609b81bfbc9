"""The published face anti-spoofing network: a ResNet-18 split after layer 2, each modality recalibrated before the
fusion (Zhang et al., "A Dataset and Benchmark for Large-scale Multi-modal Face Anti-spoofing", CVPR 2019, section 4;
the first half is one encoder per modality, the second the trunk).

Letters: B samples, N fused maps, C channels, H height, W width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional

from dmr.encoders.base import EncoderSettings, Trunk
from dmr.encoders.resnet import BasicBlock, Stem, initialise, stage

StemSize = Literal["7x7", "3x3"]


class SqueezeExcitation(nn.Module):
    """(B, C, H, W) → the same, each channel times a gate in (0, 1) made from the means of all channels (Hu et al.,
    "Squeeze-and-Excitation Networks", CVPR 2018, equations 2 to 4).
    """

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, channels // reduction, 1)
        self.fc2 = nn.Conv2d(channels // reduction, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        squeezed = x.mean(dim=(2, 3), keepdim=True)
        gate: Tensor = self.fc2(functional.relu(self.fc1(squeezed))).sigmoid()
        return x * gate


class SharedLayers(Trunk):
    """Layers 3 and 4: (N, in_width, H, W) → (N, 512, H/4, W/4), rounded up."""

    def __init__(self, in_width: int) -> None:
        super().__init__()
        self.width = 512
        self.layer3 = stage(BasicBlock, in_width, 256, 2, stride=2)
        self.layer4 = stage(BasicBlock, 256, 512, 2, stride=2)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer4(self.layer3(x))
        return y


class ResNet18SE(Stem):
    """(B, C, H, W) → a map (B, 128, H/8, W/8), rounded up; layers 3 and 4 are the trunk."""

    def __init__(self, shape: tuple[int, ...], stem: StemSize) -> None:
        super().__init__(shape[0], kernel=3 if stem == "3x3" else 7)
        self.widths = (128,)
        self.layer1 = stage(BasicBlock, 64, 64, 2, stride=1)
        self.layer2 = stage(BasicBlock, 64, 128, 2, stride=2)
        self.se = SqueezeExcitation(128)
        initialise(self)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return (self.se(self.layer2(self.layer1(self.pool(self.stem(x))))),)

    def trunk(self, in_width: int) -> SharedLayers:
        return SharedLayers(in_width)


@dataclass(frozen=True)
class ResNet18SESettings(EncoderSettings):
    """ResNet-18 to layer 2 with squeeze and excitation, layers 3 and 4 shared behind the fusion, for images (C, H, W).

    `stem` is the size of the first convolution: 7x7 as published and in torchvision, 3x3 in DMRNet's released code.
    `weights` may be of a whole ResNet-18: its layers 3 and 4 are not read, for the trunk depends on the fusion.
    """

    stem: StemSize = "7x7"

    Module = ResNet18SE
    dimensions = 3
    own = ("se.",)
    ignored = ("fc.", "layer3.", "layer4.")
