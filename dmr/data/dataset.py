"""A multimodal data set in memory or memory-mapped: what every reader returns and everything trains from.

Letters: N samples of a split, B samples of a batch, H height, W width.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dmr.combinations import check_modalities

Kind = Literal["vector", "sequence", "image", "spectrogram", "frames"]
Task = Literal["classification", "segmentation"]
KINDS: tuple[str, ...] = get_args(Kind)
TASKS: tuple[str, ...] = get_args(Task)
STATISTICS_ROWS = 10_000
STATISTICS_BYTES = 256 * 2**20


class DataError(ValueError):
    """A data set that cannot be used, in one line: which file and row, what came, what is allowed."""


@dataclass(frozen=True)
class Modality:
    """A sensor: its name, the kind of its inputs and the shape of one of them."""

    name: str
    kind: Kind
    shape: tuple[int, ...]


@dataclass(frozen=True)
class _MappedFile:
    path: Path


@dataclass(frozen=True)
class Split:
    """Samples of one split.

    Attributes:
        inputs: an array (N, *shape) a modality; may be memory maps, which are pickled by their path.
        labels: (N,) or, for segmentation, (N, H, W) int64.
        rows: None, or the int64 positions in all of these that make up this split.
        present: (N, M) bool, which modalities a sample has, in the order of `inputs`; None where all have all. What the
            inputs hold of an absent modality is never looked at.
    """

    inputs: Mapping[str, npt.NDArray[Any]]
    labels: npt.NDArray[np.int64]
    rows: npt.NDArray[np.int64] | None = None
    present: npt.NDArray[np.bool_] | None = None

    def __len__(self) -> int:
        return len(self.labels) if self.rows is None else len(self.rows)

    def targets(self) -> npt.NDArray[np.int64]:
        """(N,) or (N, H, W) labels of this split's samples."""
        return np.asarray(self.labels if self.rows is None else self.labels[self.rows])

    def has(self) -> npt.NDArray[np.bool_]:
        """(N, M) which modalities each of this split's samples has."""
        if self.present is None:
            return np.ones((len(self), len(self.inputs)), dtype=bool)
        return self.present if self.rows is None else self.present[self.rows]

    def take(self, positions: npt.NDArray[np.int64], names: Iterable[str] | None = None) -> dict[str, Tensor]:
        """The inputs (of the modalities `names`) at `positions` (B,) of this split, each (B, *shape), copied out of the
        arrays.
        """
        rows = positions if self.rows is None else self.rows[positions]
        wanted = self.inputs if names is None else names
        return {name: torch.from_numpy(np.ascontiguousarray(self.inputs[name][rows])) for name in wanted}

    def nbytes(self) -> int:
        """Bytes of this split's inputs and labels."""
        share = 1.0 if self.rows is None else len(self.rows) / len(self.labels)
        return int(share * (self.labels.nbytes + sum(array.nbytes for array in self.inputs.values())))

    def __getstate__(self) -> dict[str, Any]:
        inputs = {name: _packed(array) for name, array in self.inputs.items()}
        return self.__dict__ | {"inputs": inputs, "labels": _packed(self.labels)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        inputs = {name: _unpacked(array) for name, array in state["inputs"].items()}
        self.__dict__.update(state, inputs=inputs, labels=_unpacked(state["labels"]))


def _packed(array: npt.NDArray[Any]) -> npt.NDArray[Any] | _MappedFile:
    return _MappedFile(Path(str(array.filename))) if isinstance(array, np.memmap) else array


def _unpacked(array: npt.NDArray[Any] | _MappedFile) -> npt.NDArray[Any]:
    return np.load(array.path, mmap_mode="r") if isinstance(array, _MappedFile) else array


@dataclass(frozen=True)
class MultimodalDataset:
    """Samples seen by several modalities.

    Attributes:
        splits: `train`, `val` and, where there is one, `test`.
        description: further facts of the source, kept as they are.
        ignore_index: the label of pixels that count nowhere (segmentation).
    """

    name: str
    task: Task
    class_names: tuple[str, ...]
    modalities: tuple[Modality, ...]
    splits: Mapping[str, Split]
    description: Mapping[str, Any] = field(default_factory=dict)
    ignore_index: int | None = None

    def __post_init__(self) -> None:
        try:
            check_modalities(self.modality_names)
        except ValueError as error:
            raise DataError(f"{self.name}: {error}") from None
        if self.ignore_index in range(self.num_classes):
            raise DataError(
                f"{self.name}: ignore_index: got {self.ignore_index}, the label of a class; "
                f"allowed is what is not among 0 to {self.num_classes - 1}"
            )

    @property
    def modality_names(self) -> tuple[str, ...]:
        return tuple(modality.name for modality in self.modalities)

    @property
    def num_classes(self) -> int:
        return len(self.class_names)


@dataclass(frozen=True)
class InputStatistics:
    """Mean and standard deviation of a modality's training inputs, shaped to broadcast over (B, *shape)."""

    mean: Tensor
    std: Tensor


def input_statistics(dataset: MultimodalDataset) -> dict[str, InputStatistics]:
    """Statistics of the training split by modality: one a feature of a vector, one a channel of anything else, over at
    most `STATISTICS_ROWS` evenly spaced samples that have it, fewer where these would not fit in `STATISTICS_BYTES`. A
    constant input keeps the deviation 1.

    Raises:
        DataError: no training sample has a modality.
    """
    train = dataset.splits["train"]
    has = train.has()
    statistics = {}
    for m, modality in enumerate(dataset.modalities):
        fitting = max(2, STATISTICS_BYTES // (8 * math.prod(modality.shape)))
        there = np.flatnonzero(has[:, m])
        if len(there) == 0:
            raise DataError(f"{dataset.name}: no training sample has modality {modality.name}")
        rows = there[np.linspace(0, len(there) - 1, min(len(there), STATISTICS_ROWS, fitting)).astype(np.int64)]
        values = train.take(rows, [modality.name])[modality.name].to(torch.float64)
        channel = 2 if modality.kind == "frames" else 1
        over = [0] if modality.kind == "vector" else [axis for axis in range(values.ndim) if axis != channel]
        mean = values.mean(dim=over, keepdim=True)
        std = (values - mean).square().mean(dim=over, keepdim=True).sqrt()
        std = torch.where(std < 1e-6 * (1.0 + mean.abs()), torch.ones_like(std), std)
        statistics[modality.name] = InputStatistics(mean[0].float(), std[0].float())
    return statistics


def stratified_split(
    labels: npt.NDArray[np.int64], fractions: tuple[float, ...], seed: int
) -> tuple[npt.NDArray[np.int64], ...]:
    """Sorted positions of each part; every class is divided by `fractions` (which sum to 1), as exactly as whole
    samples allow, with its samples shuffled by `seed`.
    """
    draw = np.random.default_rng(seed)
    parts: list[list[npt.NDArray[np.int64]]] = [[] for _ in fractions]
    edges = np.cumsum(fractions)[:-1]
    for label in np.unique(labels):
        members = draw.permutation(np.flatnonzero(labels == label))
        for part, piece in zip(parts, np.split(members, np.round(edges * len(members)).astype(int)), strict=True):
            part.append(piece)
    return tuple(np.sort(np.concatenate(part)) for part in parts)
