"""Residual networks (He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, table 1) with the parameter
names of torchvision's, so that its checkpoints load, and its one change: in a bottleneck the 3×3 convolution has the
stride.

Letters: B samples, C channels, H height, W width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional

from dmr.encoders.base import EncoderModule, EncoderSettings
from dmr.networks.layers import BatchNorm2d


class BasicBlock(nn.Module):
    """Two 3×3 convolutions beside a shortcut: (B, inputs, H, W) → (B, width, H/stride, W/stride), rounded up."""

    expansion: ClassVar[int] = 1

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride=stride, padding=1, bias=False)
        self.bn1 = BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = BatchNorm2d(width)
        self.downsample = _shortcut(inputs, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return functional.relu(y + (x if self.downsample is None else self.downsample(x)))


class Bottleneck(nn.Module):
    """1×1, 3×3 (which has the stride) and 1×1 convolution beside a shortcut:
    (B, inputs, H, W) → (B, 4 width, H/stride, W/stride), rounded up.
    """

    expansion: ClassVar[int] = 4

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False)
        self.bn2 = BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = BatchNorm2d(4 * width)
        self.downsample = _shortcut(inputs, 4 * width, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu(self.bn1(self.conv1(x)))
        y = functional.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return functional.relu(y + (x if self.downsample is None else self.downsample(x)))


def _shortcut(inputs: int, outputs: int, stride: int) -> nn.Sequential | None:
    if stride == 1 and inputs == outputs:
        return None
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), BatchNorm2d(outputs))


def stage(
    block: type[BasicBlock] | type[Bottleneck], inputs: int, width: int, count: int, stride: int
) -> nn.Sequential:
    """`count` blocks, the first of which has the stride."""
    outputs = width * block.expansion
    return nn.Sequential(block(inputs, width, stride), *(block(outputs, width, 1) for _ in range(count - 1)))


def initialise(network: nn.Module) -> None:
    """Convolutions as in torchvision: He et al. 2015, by fan out."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


class Stem(EncoderModule):
    """What every ResNet begins with: a convolution of `kernel` × `kernel` pixels that halves H and W, in `stem`, and a
    pooling that halves them again, in `pool`.
    """

    def __init__(self, channels: int, kernel: int = 7) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 64, kernel, stride=2, padding=kernel // 2, bias=False)
        self.bn1 = BatchNorm2d(64)

    def stem(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, 64, H/2, W/2), rounded up."""
        return functional.relu(self.bn1(self.conv1(x)))

    def pool(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, C, H/2, W/2), rounded up."""
        return functional.max_pool2d(x, 3, stride=2, padding=1)


class BasicResNet(Stem):
    """A ResNet of basic blocks: (B, C, H, W) → (B, 512).

    Attributes:
        counts: blocks of each stage.
    """

    counts: ClassVar[tuple[int, int, int, int]]

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__(shape[0])
        self.widths = (512,)
        first, second, third, fourth = self.counts
        self.layer1 = stage(BasicBlock, 64, 64, first, stride=1)
        self.layer2 = stage(BasicBlock, 64, 128, second, stride=2)
        self.layer3 = stage(BasicBlock, 128, 256, third, stride=2)
        self.layer4 = stage(BasicBlock, 256, 512, fourth, stride=2)
        initialise(self)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        x = self.layer2(self.layer1(self.pool(self.stem(x))))
        return (self.layer4(self.layer3(x)).mean(dim=(2, 3)),)


class ResNet18(BasicResNet):
    """ResNet-18 without its classifier."""

    counts = (2, 2, 2, 2)


class ResNet34(BasicResNet):
    """ResNet-34 without its classifier."""

    counts = (3, 4, 6, 3)


@dataclass(frozen=True)
class ResNet18Settings(EncoderSettings):
    """ResNet-18 with a global mean, for images and spectrograms (C, H, W)."""

    Module = ResNet18
    dimensions = 3


@dataclass(frozen=True)
class ResNet34Settings(EncoderSettings):
    """ResNet-34 with a global mean, for images and spectrograms (C, H, W): what DMRNet's released code trains on audio
    and video, under the name resnet18.
    """

    Module = ResNet34
    dimensions = 3
