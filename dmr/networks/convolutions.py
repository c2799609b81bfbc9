"""Convolutions on processors whose fast kernels are faulty."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def sound_convolutions(device: torch.device) -> Iterator[None]:
    """Train convolutions on a CPU without AVX-512 by torch's own kernels, which take as long.

    There the gradient of a strided convolution in oneDNN writes beyond its memory (torch 2.13, `brgconv_strided:avx2`),
    and the process dies sooner or later. It is chosen for tensors with channels last, and images of one channel, which
    count as such.
    """
    enabled = torch.backends.mkldnn.enabled  # type: ignore[attr-defined]
    faulty = device.type == "cpu" and not torch.backends.cpu.get_cpu_capability().startswith("AVX512")
    torch.backends.mkldnn.set_flags(enabled and not faulty)  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        torch.backends.mkldnn.set_flags(enabled)  # type: ignore[no-untyped-call]
