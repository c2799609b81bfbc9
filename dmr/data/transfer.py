"""Copies to a device that nothing waits for."""

from __future__ import annotations

import torch
from torch import Tensor


def to_device(values: Tensor, device: torch.device) -> Tensor:
    """`values` on `device`. Those on the CPU are copied to a GPU from pinned memory: a copy from any other memory would
    wait until the GPU has done all work before it.
    """
    if device.type == "cuda" and values.device.type == "cpu":
        return values.pin_memory().to(device, non_blocking=True)
    return values.to(device)
