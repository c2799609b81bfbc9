"""Several processes, the ranks, that train one network together: what they tell each other, and who has which samples.

A batch is global. Every rank draws all of it, with the same generators, and works on its part. A rank's loss is a mean
over its own samples; weighed with the rank's share of the batch, these add up to the loss of the whole batch, so that
the gradients are those of one process. A mean that is not over all samples of a part divides by `BatchShard.counted`.

Letters: W ranks, G samples of a global batch, B samples of a rank's part of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from dmr.seeds import derive_seed

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """This process among those of the initialised process group; alone, nothing is sent.

    Attributes:
        device: what is sent is sent from there, since NCCL knows GPUs only.
    """

    rank: int = 0
    count: int = 1
    device: torch.device | None = None

    @classmethod
    def here(cls, device: torch.device) -> Ranks:
        """Those of the process group that this process is in, if any."""
        if not (dist.is_available() and dist.is_initialized()):
            return ALONE
        return cls(dist.get_rank(), dist.get_world_size(), device)

    @property
    def first(self) -> bool:
        """Whether this is the rank that loads and saves for all."""
        return self.rank == 0

    def derive_seed(self, seed: int, purpose: str, epoch: int) -> int:
        """A seed that no two ranks share; that of the first rank is the one of a process alone."""
        return derive_seed(seed, purpose, epoch, *([] if self.first else [self.rank]))

    def bounds(self, count: int, rank: int | None = None) -> tuple[int, int]:
        """The first of `count` samples that is this rank's (or `rank`'s), and the one after its last."""
        rank = self.rank if rank is None else rank
        return count * rank // self.count, count * (rank + 1) // self.count

    def part(self, count: int) -> BatchShard:
        """This rank's part of `count` samples."""
        start, stop = self.bounds(count)
        return BatchShard(self, start, stop - start, count - stop)

    def total(self, values: Tensor) -> Tensor:
        """The sum over ranks, without a gradient."""
        return values if self.count == 1 else self._reduced(values, dist.ReduceOp.SUM)

    def largest(self, values: Tensor) -> Tensor:
        """The largest over ranks, without a gradient."""
        return values if self.count == 1 else self._reduced(values, dist.ReduceOp.MAX)

    def sum(self, values: Tensor) -> Tensor:
        """The sum over ranks, through which a gradient flows to every rank."""
        return values if self.count == 1 else _Sum.apply(values)  # type: ignore[no-any-return, no-untyped-call]

    def joined(self, values: Tensor, count: int, dim: int = 0) -> Tensor:
        """What each rank has of `count` samples along `dim`, in the order of the samples, on every rank."""
        if self.count == 1:
            return values
        bounds = [self.bounds(count, rank) for rank in range(self.count)]
        sizes = [stop - start for start, stop in bounds]
        shape = list(values.shape)
        shape[dim] = max(sizes)
        padded = torch.zeros(shape, dtype=values.dtype, device=self.device)
        padded.narrow(dim, 0, values.shape[dim]).copy_(values)
        found = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(found, padded)
        kept = [rows.narrow(dim, 0, size) for rows, size in zip(found, sizes, strict=True)]
        return torch.cat(kept, dim=dim).to(values.device)

    def shared(self, make: Callable[[], T]) -> T:
        """What `make` gives on the first rank, on every rank; it is called on no other."""
        if self.count == 1:
            return make()
        box: list[Any] = [make() if self.rank == 0 else None]
        dist.broadcast_object_list(box, src=0, device=self.device)
        found: T = box[0]
        return found

    def _reduced(self, values: Tensor, how: Any) -> Tensor:
        sent = values.detach().to(self.device, copy=True)
        dist.all_reduce(sent, how)
        return sent.to(values.device)


ALONE = Ranks()


class BatchShard(NamedTuple):
    """The samples of a global batch that are this rank's: `own`, between those of lower and of higher ranks."""

    ranks: Ranks
    before: int
    own: int
    after: int

    @property
    def whole(self) -> int:
        return self.before + self.own + self.after

    @property
    def share(self) -> float:
        """What a mean over this rank's samples weighs in the mean over all."""
        return 1.0 if self.ranks.count == 1 else self.own / self.whole

    def summed(self, mean: Tensor) -> Tensor:
        """The sum over this rank's samples, from their mean, which is not defined where there are none."""
        return mean * self.own if self.own else torch.zeros_like(mean)

    def cut(self, values: Tensor, dim: int = 0) -> Tensor:
        """This rank's samples of all, along `dim`."""
        return values if self.ranks.count == 1 else values.narrow(dim, self.before, self.own)

    def draw(
        self, draw: Callable[..., Tensor], shape: Sequence[int], dim: int, generator: torch.Generator, **how: Any
    ) -> Tensor:
        """Random numbers of `shape`, with this rank's samples along `dim`: cut from those of the global batch."""
        whole = [*shape[:dim], self.whole, *shape[dim + 1 :]]
        return self.cut(draw(whole, generator=generator, **how), dim)

    def counted(self, count: Tensor) -> Tensor:
        """What a sum over some of this rank's samples is divided by, from their number, at least 1 over all ranks."""
        if self.ranks.count == 1:
            return count.clamp(min=1)
        return self.ranks.total(count).clamp(min=1) * self.share

    def weighed(self, mean: Tensor, outer: BatchShard | None = None) -> Tensor:
        """A mean over this rank's samples, so that the sum over ranks, divided by their number, is the mean over all.

        With `outer` that holds once the result is weighed in `outer`, of which these samples are some. Of no samples
        the mean is not defined; its gradient is 0, and yet every rank walks back through the same layers.
        """
        if self.ranks.count == 1:
            return mean
        if not self.own:
            return torch.nan_to_num(mean, 0.0, 0.0, 0.0)
        return mean * (self.share * self.ranks.count if outer is None else self.share / outer.share)

    def gathered(self, values: Tensor, dim: int) -> Tensor:
        """The samples (B) of all ranks along `dim`, (G); a gradient flows back to the rank of each."""
        if self.ranks.count == 1:
            return values
        rows = torch.arange(self.before, self.before + self.own, device=values.device)
        room = values.new_zeros([*values.shape[:dim], self.whole, *values.shape[dim + 1 :]])
        return self.ranks.sum(room.index_copy(dim, rows, values))


Part = BatchShard  # old name, kept for users' own methods


def alone(count: int) -> BatchShard:
    """All of a batch of `count` samples."""
    return BatchShard(ALONE, 0, count, 0)


class _Sum(torch.autograd.Function):
    """Σ over ranks; each rank's loss depends on every rank's values, so that the gradient is summed as well."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        summed = values.contiguous().clone()
        dist.all_reduce(summed)
        return summed

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return _Sum.forward(ctx, gradient)
