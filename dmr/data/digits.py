"""scikit-learn's handwritten digits, each quadrant of the 8×8 image a modality: real data that needs no download."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dmr.data.dataset import Modality, MultimodalDataset, Split, stratified_split

QUADRANTS = {
    "top_left": (slice(0, 4), slice(0, 4)),
    "top_right": (slice(0, 4), slice(4, 8)),
    "bottom_left": (slice(4, 8), slice(0, 4)),
    "bottom_right": (slice(4, 8), slice(4, 8)),
}
SPLIT_SEED = 0
FRACTIONS = {"train": 0.6, "val": 0.2, "test": 0.2}


def digits() -> MultimodalDataset:
    """1 797 images in 10 classes, four vectors of 16 pixels each; a fixed stratified 60/20/20 split."""
    table = read_table()
    images = table[:, :-1].reshape(-1, 8, 8).astype(np.float32) / 16.0
    labels = table[:, -1].astype(np.int64)
    inputs = {name: images[:, rows, columns].reshape(len(images), -1) for name, (rows, columns) in QUADRANTS.items()}
    parts = stratified_split(labels, tuple(FRACTIONS.values()), SPLIT_SEED)
    splits = {
        split: Split({name: array[part] for name, array in inputs.items()}, labels[part])
        for split, part in zip(FRACTIONS, parts, strict=True)
    }
    modalities = tuple(Modality(name, "vector", (16,)) for name in QUADRANTS)
    return MultimodalDataset("digits", "classification", tuple(map(str, range(10))), modalities, splits)


def read_table() -> npt.NDArray[np.float64]:
    """The pixels of each image and its class (N, 65), as scikit-learn's `load_digits` reads them, whose import takes
    longer than all else before a study starts.

    Raises:
        ModuleNotFoundError: scikit-learn is not installed.
    """
    found = find_spec("sklearn")
    if found is None or found.origin is None:
        raise ModuleNotFoundError("No module named 'sklearn'", name="sklearn")
    return np.loadtxt(Path(found.origin).parent / "datasets" / "data" / "digits.csv.gz", delimiter=",")
