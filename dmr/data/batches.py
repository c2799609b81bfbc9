"""Batches of a split on a device. On the CPU they are gathered from the split's own arrays, which are never copied as a
whole; on a GPU small splits stay resident and larger ones are gathered while the GPU computes.

Letters: N samples of the split, B samples of a batch, H height, W width.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from dmr.data.dataset import MultimodalDataset, Split
from dmr.data.transfer import to_device
from dmr.sampling import draw_combinations

RESIDENT_BYTES = 2 * 2**30
AHEAD = 2  # batches of a large split that are gathered before they are asked for

Batch = tuple[dict[str, Tensor], Tensor]


class Batches:
    """Gives the inputs and labels at any positions of a split, on `device`."""

    def __init__(self, split: Split, device: torch.device) -> None:
        self.device = device
        self.split = split
        self.large = split.nbytes() > RESIDENT_BYTES
        self.resident: Batch | None = None
        if device.type != "cpu" and not self.large:
            self.resident = self._send(split.gather(np.arange(len(split))))

    def __len__(self) -> int:
        return len(self.split)

    def take(self, positions: Tensor) -> Batch:
        """Inputs (B, *shape) by modality and labels (B,) or (B, H, W) at `positions` (B,), int64 on the CPU."""
        if self.resident is None:
            return self._send(self._gather(positions))
        on_device = to_device(positions, self.device)
        inputs, labels = self.resident
        return {name: x.index_select(0, on_device) for name, x in inputs.items()}, labels.index_select(0, on_device)

    def stream(self, batches: Iterable[Tensor]) -> Iterator[Batch]:
        """The batches at these positions, in order; those of a large split are gathered ahead, in a thread."""
        if not self.large:
            yield from map(self.take, batches)
            return
        with ThreadPoolExecutor(1, "batches") as thread:
            pending: deque[Future[Batch]] = deque()
            for positions in batches:
                pending.append(thread.submit(self._gather, positions))
                if len(pending) > AHEAD:
                    yield self._send(pending.popleft().result())
            while pending:
                yield self._send(pending.popleft().result())

    def _gather(self, positions: Tensor) -> Batch:
        """From the arrays, in memory that a GPU can read while it computes."""
        inputs, labels = self.split.gather(positions.numpy(), in_order=self.large)
        if self.device.type != "cuda":
            return inputs, labels
        return {name: values.pin_memory() for name, values in inputs.items()}, labels.pin_memory()

    def _send(self, batch: Batch) -> Batch:
        inputs, labels = batch
        on_device = {name: values.to(self.device, non_blocking=True) for name, values in inputs.items()}
        return on_device, labels.to(self.device, non_blocking=True)


def batch_positions(count: int, size: int, order: torch.Generator, chances: Tensor | None = None) -> Iterator[Tensor]:
    """Positions 0..count−1 in random order, or as many drawn with these `chances` (count,), in batches of `size`; a
    single sample left over is left out, since batch normalisation has no statistics of one sample.
    """
    drawn = torch.randperm(count, generator=order) if chances is None else draw_combinations(chances, (count,), order)
    for positions in torch.split(drawn, size):
        if len(positions) > 1:
            yield positions


def class_chances(dataset: MultimodalDataset) -> Tensor:
    """(N,) float64, the chance of each training sample to be drawn, equal in sum for every class that has samples.

    Raises:
        ValueError: the samples of the task have no single class.
    """
    if dataset.task != "classification":
        raise ValueError(f"train.class_balanced: a sample of {dataset.task} has no single class")
    labels = dataset.splits["train"].targets()
    chances = 1.0 / np.bincount(labels)[labels]
    return torch.from_numpy(chances / chances.sum())
