"""scikit-learn's handwritten digits, each quadrant of the 8×8 image a modality: real data that needs no download."""

from __future__ import annotations

import numpy as np

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
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    images = images.reshape(-1, 8, 8).astype(np.float32) / 16.0
    labels = labels.astype(np.int64)
    inputs = {name: images[:, rows, columns].reshape(len(images), -1) for name, (rows, columns) in QUADRANTS.items()}
    parts = stratified_split(labels, tuple(FRACTIONS.values()), SPLIT_SEED)
    splits = {
        split: Split({name: array[part] for name, array in inputs.items()}, labels[part])
        for split, part in zip(FRACTIONS, parts, strict=True)
    }
    modalities = tuple(Modality(name, "vector", (16,)) for name in QUADRANTS)
    return MultimodalDataset("digits", "classification", tuple(map(str, range(10))), modalities, splits)
