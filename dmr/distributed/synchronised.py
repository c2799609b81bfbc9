"""Training on several ranks: DistributedDataParallel around a step's losses, and batch normalisation over all ranks.

Letters: W ranks, N values of a channel on a rank, C channels.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from dmr.distributed.ranks import Ranks
from dmr.methods.base import StepLosses
from dmr.networks.network import Network


def distributed_losses(network: Network) -> Callable[..., StepLosses]:
    """`network.losses` whose gradients are averaged over ranks.

    `find_unused_parameters`: a parameter that no rank uses in a step has no gradient, as in one process. Buffers are
    not sent, since they are equal: `synchronise` the network before.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # a newer name of `broadcast_buffers`
        return DistributedDataParallel(_Losses(network), find_unused_parameters=True, broadcast_buffers=False)


class _Losses(nn.Module):
    """The losses as a forward pass, which is what DistributedDataParallel looks at."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, *given: Any) -> StepLosses:
        return self.network.losses(*given)


def synchronise(module: nn.Module, ranks: Ranks) -> None:
    """Replace every batch normalisation inside `module` by one over all ranks, with the same parameters."""
    for name, child in module.named_children():
        if isinstance(child, _BatchNorm) and child.track_running_stats:
            setattr(module, name, SyncBatchNorm(child, ranks))
        else:
            synchronise(child, ranks)


class SyncBatchNorm(_BatchNorm):
    """Batch normalisation over the samples of all ranks, on any device.

    torch's own `nn.SyncBatchNorm` has no CPU version, and its running variance is NaN after a batch of one value. A
    rank may have no sample. Means and sums of squares are combined as in Chan, Golub, LeVeque, "Updating Formulae and
    a Pairwise Algorithm for Computing Sample Variances", 1979. Where all ranks together have one value per channel, the
    running statistics are used and left alone, as `dmr.networks.layers` does.
    """

    def __init__(self, like: _BatchNorm, ranks: Ranks) -> None:
        super().__init__(like.num_features, like.eps, like.momentum, affine=False)
        self.affine = like.affine
        self.weight, self.bias = like.weight, like.bias
        self.running_mean, self.running_var = like.running_mean, like.running_var
        self.num_batches_tracked = like.num_batches_tracked
        self.train(like.training)
        self.ranks = ranks

    def _check_input_dim(self, input: Tensor) -> None:
        """Any number of dimensions."""

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        mean, variance, count = self.moments(input.float())
        several = count > 1
        mean = torch.where(several, mean, self.running_mean)
        variance = torch.where(several, variance, self.running_var)
        with torch.no_grad():
            self.num_batches_tracked.add_(several[0])
            factor = 1.0 / self.num_batches_tracked if self.momentum is None else self.momentum
            unbiased = variance * torch.where(several, count / (count - 1).clamp(min=1), 1.0)
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), factor)
            self.running_var.lerp_(unbiased.to(self.running_var.dtype), factor)
        scale = torch.rsqrt(variance + self.eps)
        if self.weight is not None:
            scale = scale * self.weight
        shift = -mean * scale if self.bias is None else self.bias - mean * scale
        along = [1, -1] + [1] * (input.ndim - 2)
        return torch.addcmul(shift.view(along), input.float(), scale.view(along)).to(input.dtype)

    def moments(self, input: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mean and biased variance of each channel, (C,), and the number of values, (1,), over all ranks."""
        over = [0, *range(2, input.ndim)]
        number = input.numel() // input.shape[1]
        mean = input.sum(over) / max(1, number)
        along = [1, -1] + [1] * (input.ndim - 2)
        squares = (input - mean.view(along)).square().sum(over)
        own = torch.cat([mean, squares, mean.new_full((1,), number)])
        rank, ranks = self.ranks.rank, self.ranks.count
        rows = self.ranks.sum(functional.pad(own[None], (0, 0, rank, ranks - 1 - rank)))  # (W, 2C + 1)
        means, squares, counts = torch.split(rows, [len(mean), len(mean), 1], dim=1)
        count = counts.sum(0)
        whole = (counts * means).sum(0) / count.clamp(min=1)
        variance = (squares + counts * (means - whole).square()).sum(0) / count.clamp(min=1)
        return whole, variance, count
