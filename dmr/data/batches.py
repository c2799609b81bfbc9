"""Batches of a split on a device: small splits stay resident there, larger ones are gathered from their memory maps.

Letters: N samples of the split, B samples of a batch, H height, W width.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from dmr.data.dataset import Split

RESIDENT_BYTES = 2 * 2**30


class Batches:
    """Gives the inputs and labels at any positions of a split, on `device`."""

    def __init__(self, split: Split, device: torch.device) -> None:
        self.device = device
        self.split = split
        self.labels = torch.from_numpy(split.targets().copy()).to(device)
        self.resident: dict[str, Tensor] | None = None
        if split.nbytes() <= RESIDENT_BYTES:
            everything = split.take(np.arange(len(split)))
            self.resident = {name: values.to(device) for name, values in everything.items()}

    def __len__(self) -> int:
        return len(self.split)

    def take(self, positions: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Inputs (B, *shape) by modality and labels (B,) or (B, H, W) at `positions` (B,), int64 on the CPU."""
        on_device = positions.to(self.device, non_blocking=True)
        if self.resident is not None:
            inputs = {name: values.index_select(0, on_device) for name, values in self.resident.items()}
        else:
            gathered = self.split.take(positions.numpy())
            inputs = {name: values.to(self.device, non_blocking=True) for name, values in gathered.items()}
        return inputs, self.labels.index_select(0, on_device)
