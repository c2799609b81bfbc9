"""Layers that networks share.

Letters: B samples, C channels, H height, W width.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

CHANNELS_PER_GROUP = 4


class _SafeBatchNorm(_BatchNorm):
    """In training a batch with one value per channel has no variance (and one with none no mean): it is normalised with
    the running statistics, which it leaves alone.
    """

    def forward(self, input: Tensor) -> Tensor:
        if self.training and input.numel() <= input.shape[1]:
            return functional.batch_norm(
                input, self.running_mean, self.running_var, self.weight, self.bias, training=False, eps=self.eps
            )
        return super().forward(input)


class BatchNorm1d(_SafeBatchNorm, nn.BatchNorm1d):
    """torch's, but for batches with one value per channel (a single sample)."""


class BatchNorm2d(_SafeBatchNorm, nn.BatchNorm2d):
    """torch's, but for batches with one value per channel (a single map of 1×1)."""


def group_norm(channels: int) -> nn.GroupNorm:
    """At most 8 groups of 4 channels or more where that divides; a group of one channel would erase maps of 1×1."""
    groups = next((g for g in (8, 4, 2) if channels % g == 0 and channels // g >= CHANNELS_PER_GROUP), 1)
    return nn.GroupNorm(groups, channels)


class ResidualBlock(nn.Module):
    """Two 3×3 convolutions with group normalisation beside a shortcut: (B, C, H, W) → (B, outputs, H/stride, W/stride),
    rounded up.
    """

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False),
            group_norm(outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
            group_norm(outputs),
        )
        same = inputs == outputs and stride == 1
        self.shortcut = (
            nn.Identity()
            if same
            else nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), group_norm(outputs))
        )

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.convolutions(x) + self.shortcut(x))
