"""Data sets by name."""

from __future__ import annotations

from pathlib import Path

from dmr.data.arrays import arrays
from dmr.data.dataset import MultimodalDataset
from dmr.data.digits import digits


def open_dataset(name: str, path: str | None, seed: int) -> MultimodalDataset:
    """The data set `digits`, or the folder at `path` for `arrays`.

    Raises:
        DataError: the folder cannot be used.
    """
    return digits() if name == "digits" else arrays(Path(path or "."), seed)
