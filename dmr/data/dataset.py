"""A multimodal data set in memory or memory-mapped: what every reader returns and everything trains from.

Letters: N samples of a split, B samples of a batch, H height, W width.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dmr.combinations import check_modalities, check_name_lengths
from dmr.data.yaml_text import text_rule
from dmr.object_storage.cache import Origin, origin_of

Kind = Literal["vector", "sequence", "image", "spectrogram", "frames"]
Task = Literal["classification", "segmentation"]
INPUT_TYPES = ("float32", "float16", "uint8")
KINDS: tuple[str, ...] = get_args(Kind)
TASKS: tuple[str, ...] = get_args(Task)
MAX_NAME = 255  # letters of a data set's name; MLflow takes 500
STATISTICS_ROWS = 10_000
STATISTICS_BYTES = 256 * 2**20
STATISTICS_AT_ONCE = 32 * 2**20
LARGE_SAMPLE = 4096  # bytes from which a loop over samples costs less than copying them twice


class DataError(ValueError):
    """A data set that cannot be used, in one line: which file and row, what came, what is allowed."""


@dataclass(frozen=True)
class Modality:
    """A sensor: its name, the kind of its inputs and the shape of one of them."""

    name: str
    kind: Kind
    shape: tuple[int, ...]


@dataclass(frozen=True)
class MappedFile:
    """Where a memory map lies: `offset` in bytes, `order` that of the memory, C or F; `origin` is the object that it is
    a copy of, on every machine its own.
    """

    path: Path
    offset: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    order: Literal["C", "F"]
    origin: Origin | None = None


@dataclass(frozen=True)
class Split:
    """Samples of one split.

    Attributes:
        inputs: an array (N, *shape) per modality; may be memory maps, which are pickled by their path.
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

    def each_target(self) -> Iterator[npt.NDArray[np.int64]]:
        """The label or label map of one sample after the other, none of them copied."""
        return iter(self.labels) if self.rows is None else (self.labels[row] for row in self.rows)

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
        return {name: _rows_of(self.inputs[name], rows, None) for name in wanted}

    def gather(self, positions: npt.NDArray[np.int64], in_order: bool = False) -> tuple[dict[str, Tensor], Tensor]:
        """The inputs and the labels (B,) or (B, H, W) at `positions` (B,); `in_order` reads the files front to back."""
        rows = positions if self.rows is None else self.rows[positions]
        order = np.argsort(rows) if in_order else None
        return {name: _rows_of(array, rows, order) for name, array in self.inputs.items()}, _rows_of(
            self.labels, rows, order
        )

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


def _rows_of(array: npt.NDArray[Any], rows: npt.NDArray[np.int64], order: npt.NDArray[np.int64] | None) -> Tensor:
    """(B, *shape) a copy of the `rows` (B,) of an array, read in this order where it matters."""
    if order is None:
        return torch.from_numpy(np.ascontiguousarray(array[rows]))
    gathered = np.empty((len(rows), *array.shape[1:]), dtype=array.dtype)
    plain = np.asarray(array)  # a memory map's own index costs more than the copy
    if gathered[0].nbytes < LARGE_SAMPLE:
        gathered[order] = plain[rows[order]]
        return torch.from_numpy(gathered)
    for place, row in zip(order.tolist(), rows[order].tolist(), strict=True):
        gathered[place] = plain[row]
    return torch.from_numpy(gathered)


def mapped_file(array: npt.NDArray[Any]) -> MappedFile | None:
    """Where a memory map in one piece lies, a part of a larger one included; None of any other array."""
    contiguous = array.flags.c_contiguous or array.flags.f_contiguous
    if not isinstance(array, np.memmap) or array.filename is None or not contiguous:
        return None
    start = np.frombuffer(vars(array)["_mmap"], dtype=np.uint8).ctypes.data
    offset = array.ctypes.data - start + array.offset - array.offset % mmap.ALLOCATIONGRANULARITY
    order: Literal["C", "F"] = "C" if array.flags.c_contiguous else "F"
    return MappedFile(Path(str(array.filename)), offset, array.dtype, array.shape, order)


def _packed(array: npt.NDArray[Any]) -> npt.NDArray[Any] | MappedFile:
    """What is pickled of an array: of a memory map where it lies, anything else whole."""
    mapped = mapped_file(array)
    return array if mapped is None else replace(mapped, origin=origin_of(mapped.path))


def _unpacked(array: npt.NDArray[Any] | MappedFile) -> npt.NDArray[Any]:
    if not isinstance(array, MappedFile):
        return array
    path = array.path if array.origin is None else array.origin.file()
    return np.memmap(path, array.dtype, "r", array.offset, array.shape, array.order)


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
        check_dataset_name(self.name)
        try:
            check_modalities(self.modality_names)
            check_name_lengths(self.modality_names)
            check_class_names(self.class_names)
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


def check_dataset_name(name: object) -> None:
    """Raises:
    DataError: it is no text, or too long for what MLflow keeps.
    """
    if not isinstance(name, str):
        raise DataError(f"name: got {name!r}; allowed: {text_rule(name)}")
    if not 1 <= len(name) <= MAX_NAME:
        raise DataError(f"name: got {len(name)} letters; allowed are 1 to {MAX_NAME}")


def check_class_names(names: Sequence[object]) -> None:
    """Raises:
    DataError: a name is no text, or comes twice: one of the two would be lost in tables and predictions.
    """
    for number, name in enumerate(names):
        if not isinstance(name, str):
            raise DataError(f"class_names[{number}]: got {name!r}; allowed: {text_rule(name)}")
        if name in names[:number]:
            raise DataError(f"class_names[{number}]: {name!r} comes twice; names must differ")


@dataclass(frozen=True)
class InputStatistics:
    """Mean and standard deviation of a modality's training inputs, shaped to broadcast over (B, *shape)."""

    mean: Tensor
    std: Tensor


def input_statistics(dataset: MultimodalDataset) -> dict[str, InputStatistics]:
    """Statistics of the training split by modality: one per feature of a vector, per channel of anything else, over at
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
        statistics[modality.name] = _statistics(train, modality, rows)
    return statistics


def _statistics(train: Split, modality: Modality, rows: npt.NDArray[np.int64]) -> InputStatistics:
    """Of the samples at `rows`, in two passes, a part at a time."""
    channel = 2 if modality.kind == "frames" else 1
    axes = range(len(modality.shape) + 1)
    over = [0] if modality.kind == "vector" else [axis for axis in axes if axis != channel]
    parts = np.array_split(rows, math.ceil(8 * math.prod(modality.shape) * len(rows) / STATISTICS_AT_ONCE))

    def mean_of(change: Callable[[Tensor], Tensor]) -> Tensor:
        changed = (change(train.take(part, [modality.name])[modality.name].to(torch.float64)) for part in parts)
        sums = [(values.sum(dim=over, keepdim=True), values.numel()) for values in changed]
        total = torch.stack([part for part, _ in sums]).sum(0)
        return total * (total.numel() / sum(count for _, count in sums))

    mean = mean_of(lambda values: values)
    std = mean_of(lambda values: (values - mean).square()).sqrt()
    std = torch.where(std < 1e-6 * (1.0 + mean.abs()), torch.ones_like(std), std)
    return InputStatistics(mean[0].float(), std[0].float())


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


def wrong_labels(
    labels: npt.NDArray[np.int64], share: float, num_classes: int, draw: np.random.Generator
) -> npt.NDArray[np.int64]:
    """Labels (N,) of which the nearest whole number to `share` · N, drawn at random, are another class, any equally
    likely.
    """
    wrong = draw.permutation(len(labels))[: round(share * len(labels))]
    changed = labels.copy()
    changed[wrong] = (labels[wrong] + draw.integers(1, num_classes, size=len(wrong))) % num_classes
    return changed
