"""Seeds derived from a study's seed by name, so that no generator's state has to survive a restart."""

from __future__ import annotations

import hashlib

import torch


def derive_seed(*parts: int | str) -> int:
    """A seed in [0, 2^63) that depends on every part and on their order, equal on every machine."""
    digest = hashlib.sha256("\0".join(str(part) for part in parts).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator(device: torch.device | str, *parts: int | str) -> torch.Generator:
    """A generator on `device` seeded by `derive_seed(*parts)`."""
    return torch.Generator(device).manual_seed(derive_seed(*parts))
