"""scikit-learn's handwritten digits, each quadrant of the 8×8 image a modality: real data that needs no download."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from dmr.data.dataset import Kind, Modality, MultimodalDataset, Split, stratified_split, wrong_labels
from dmr.seeds import derive_seed
from dmr.settings import setting

QUADRANTS = {
    "top_left": (slice(0, 4), slice(0, 4)),
    "top_right": (slice(0, 4), slice(4, 8)),
    "bottom_left": (slice(4, 8), slice(0, 4)),
    "bottom_right": (slice(4, 8), slice(4, 8)),
}
FRACTIONS = {"train": 0.6, "val": 0.2, "test": 0.2}


@dataclass(frozen=True)
class DigitsSettings:
    """`seed` draws the splits and what else is drawn; `train` is how many training samples are kept, of every class as
    large a share (null: all 1 078), and `label_noise` the share of them whose label is wrong; `image_size` enlarges the
    quadrants to images of so many pixels per side (null: vectors).
    """

    seed: int = setting(0, ge=0)
    train: int | None = setting(None, ge=20, le=1078)
    label_noise: float = setting(0.0, ge=0.0, lt=1.0)
    image_size: int | None = setting(None, ge=8, le=128)


def digits(settings: DigitsSettings = DigitsSettings()) -> MultimodalDataset:
    """1 797 images in 10 classes, in a stratified 60/20/20 split; each quadrant a vector of 16 pixels, or an image."""
    table = read_table()
    images = table[:, :-1].reshape(-1, 8, 8).astype(np.float32) / 16.0
    labels = table[:, -1].astype(np.int64)
    size = settings.image_size
    kind: Kind = "vector" if size is None else "image"
    shape = (16,) if size is None else (1, size, size)
    inputs = {
        name: quadrant.reshape(len(images), 16) if size is None else enlarged(quadrant, size)
        for name, quadrant in ((name, images[:, rows, columns]) for name, (rows, columns) in QUADRANTS.items())
    }
    parts = dict(zip(FRACTIONS, stratified_split(labels, tuple(FRACTIONS.values()), settings.seed), strict=True))
    draw = np.random.default_rng(derive_seed("digits", settings.seed))
    if settings.train is not None:
        parts["train"] = parts["train"][stratified_choice(labels[parts["train"]], settings.train, draw)]
    targets = {split: labels[part] for split, part in parts.items()}
    targets["train"] = wrong_labels(targets["train"], settings.label_noise, 10, draw)
    splits = {
        split: Split({name: array[part] for name, array in inputs.items()}, targets[split])
        for split, part in parts.items()
    }
    modalities = tuple(Modality(name, kind, shape) for name in QUADRANTS)
    return MultimodalDataset("digits", "classification", tuple(map(str, range(10))), modalities, splits)


def enlarged(images: npt.NDArray[np.float32], size: int) -> npt.NDArray[np.float32]:
    """(N, 1, size, size) from (N, H, W), by bilinear interpolation."""
    pixels = torch.from_numpy(images)[:, None]
    found: npt.NDArray[np.float32] = functional.interpolate(pixels, size=(size, size), mode="bilinear").numpy()
    return found


def stratified_choice(labels: npt.NDArray[np.int64], count: int, draw: np.random.Generator) -> npt.NDArray[np.int64]:
    """(count,) sorted positions in `labels` (N,), drawn so that every class gives as large a share of its samples."""
    turn = np.empty(len(labels))  # when a sample is taken: those of a class are spread evenly
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        turn[draw.permutation(members)] = (np.arange(len(members)) + draw.random()) / len(members)
    return np.sort(np.argsort(turn)[:count])


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
