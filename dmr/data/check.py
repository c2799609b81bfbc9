"""Checks of a data folder before a study: what is in it, and every mistake.

Letters: N samples of a split, M modalities, L classes, G different samples, S splits.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from dmr.combinations import SEPARATOR, check_modalities, check_name_lengths, combination_name
from dmr.data.arrays import (
    check_classes,
    check_map_sizes,
    constant_line,
    drawn_val,
    not_finite_line,
    open_array,
    open_input,
    open_labels,
    open_present,
    read_arrays,
    read_class_names,
    read_description,
    read_ignore_index,
    read_modality,
    read_name,
)
from dmr.data.dataset import DataError, Modality, Split
from dmr.data.scan import DIGEST_BYTES, blocks, scan_values

T = TypeVar("T")
SPLITS = ("train", "val", "test")
READ_KEYS = {"name", "task", "num_classes", "class_names", "ignore_index", "modalities"}
READ_MODALITY_KEYS = {"name", "kind", "shape"}


@dataclass(frozen=True)
class InputReport:
    """A modality in a split.

    Attributes:
        present: how many samples have it.
        not_finite: how many of these have NaN or infinity.
        constant: how many of the numbers of a sample are the same in all that have it.
    """

    type: str
    present: int
    not_finite: int
    constant: int


@dataclass(frozen=True)
class SplitReport:
    """A split.

    Attributes:
        classes: samples of each class or, for segmentation, pixels; None where the labels cannot be used.
        ignored: pixels that count nowhere.
        inputs: by modality, those that can be used.
        combinations: how many samples have exactly these modalities, by name, most first.
    """

    samples: int
    classes: list[int] | None
    ignored: int
    inputs: dict[str, InputReport]
    combinations: dict[str, int]


@dataclass(frozen=True)
class Duplicates:
    """Samples that are the same in all modalities in two splits: how many of `split` are in `other` too, and the first
    of them.
    """

    split: str
    other: str
    count: int
    row: int
    other_row: int


@dataclass(frozen=True)
class DataReport:
    """A data folder.

    Attributes:
        description: keys of dataset.yaml that are kept as they are; those of modalities under `modalities`, by name.
        errors: what would spoil a study, one line each.
        warnings: what may be meant.
    """

    path: str
    name: str
    task: str
    class_names: list[str]
    ignore_index: int | None
    modalities: list[Modality]
    splits: dict[str, SplitReport] = field(default_factory=dict)
    duplicates: list[Duplicates] = field(default_factory=list)
    description: dict[str, Any] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def check_folder(path: Path) -> DataReport:
    """Read everything in a folder in the `arrays` layout once, a block at a time.

    Raises:
        DataError: there is no such folder, or it has no dataset.yaml that says what lies there.
    """
    description = read_description(path)
    errors: list[str] = []
    task = description.get("task", "classification")
    entries = description.get("modalities")
    if not isinstance(entries, list) or not entries:
        raise DataError(
            f"{path / 'dataset.yaml'}: modalities: a list of {{name, kind, shape}} is needed, got {entries!r}"
        )
    where = f"{path / 'dataset.yaml'}: modalities"
    read = [attempt(errors, read_modality, f"{where}[{number}]", entry) for number, entry in enumerate(entries)]
    modalities = [modality for modality in read if modality is not None]
    try:
        if len(modalities) == len(entries):
            check_modalities([modality.name for modality in modalities])
        check_name_lengths([modality.name for modality in modalities])
    except ValueError as error:
        errors.append(f"{where}: {error}")
    report = DataReport(
        str(path),
        attempt(errors, read_name, path, description) or path.resolve().name,
        task,
        list(attempt(errors, read_class_names, path, description) or ()),
        attempt(errors, read_ignore_index, path, description, task),
        modalities,
        description=further_keys(description, entries),
        errors=errors,
    )
    if not modalities:
        return report
    checks = [_SplitCheck(report, path / name) for name in SPLITS if name == "train" or (path / name).exists()]
    for check in checks:
        report.splits[check.folder.name] = check.run()
    if len(modalities) == len(entries):
        report.duplicates.extend(find_duplicates({check.folder.name: check.digests for check in checks}))
    usable = {check.folder.name: Split({}, check.labels) for check in checks if check.labels is not None}
    if "train" in usable:
        if task == "segmentation":
            attempt(errors, check_map_sizes, path, usable)
        else:
            attempt(errors, check_classes, path, usable["train"], tuple(report.class_names))
    report.warnings.extend([*drawn_val(path), *_unseen(path, report)])
    if not errors:
        attempt(errors, read_arrays, path, 0)
    return report


def attempt(errors: list[str], function: Callable[..., T], *arguments: Any) -> T | None:
    """What the function returns, None where it finds an error, which is added to the others."""
    try:
        return function(*arguments)
    except DataError as error:
        errors.append(str(error))
    except OSError as error:
        errors.append(f"{error.filename}: {error.strerror}")
    return None


def further_keys(description: dict[str, Any], entries: Sequence[Any]) -> dict[str, Any]:
    """What dataset.yaml says beyond what is read."""
    further = {str(key): value for key, value in description.items() if key not in READ_KEYS}
    of_modalities = {
        str(entry.get("name")): {str(key): value for key, value in entry.items() if key not in READ_MODALITY_KEYS}
        for entry in entries
        if isinstance(entry, dict)
    }
    of_modalities = {name: keys for name, keys in of_modalities.items() if keys}
    return further | ({"modalities": of_modalities} if of_modalities else {})


class _SplitCheck:
    """Reads a split, adds what it finds to the report, and keeps the labels and a digest of every sample."""

    def __init__(self, report: DataReport, folder: Path) -> None:
        self.report = report
        self.folder = folder
        self.labels: npt.NDArray[np.int64] | None = None
        self.digests = np.zeros((0, DIGEST_BYTES), dtype=np.uint8)

    def run(self) -> SplitReport:
        report, errors = self.report, self.report.errors
        if attempt(errors, os.listdir, self.folder) is None:
            return SplitReport(0, None, 0, {}, {})
        file = self.folder / "label.npy"
        if report.class_names:
            self.labels = attempt(errors, open_labels, file, len(report.class_names), report.task, report.ignore_index)
        samples = self.count(file)
        classes, ignored = self.balance()
        present = attempt(errors, open_present, self.folder / "present.npy", samples, len(report.modalities))
        has = np.ones((samples, len(report.modalities)), dtype=bool) if present is None else present
        self.digests = np.zeros((samples, DIGEST_BYTES), dtype=np.uint8)
        inputs = {}
        for modality, column in zip(report.modalities, has.T, strict=True):
            array = attempt(errors, open_input, self.folder, modality, samples)
            if array is not None and samples:
                inputs[modality.name] = self.input(modality, array, column)
        if len(inputs) < len(report.modalities):
            self.digests = self.digests[:0]
        return SplitReport(samples, classes, ignored, inputs, exact_combinations(report.modalities, has))

    def count(self, file: Path) -> int:
        """How many samples there are, also where the labels cannot be used."""
        if self.labels is not None:
            return len(self.labels)
        for candidate in (file, *(self.folder / f"{modality.name}.npy" for modality in self.report.modalities)):
            array = attempt([], open_array, candidate)
            if array is not None and array.ndim:
                return len(array)
        return 0

    def balance(self) -> tuple[list[int] | None, int]:
        """Samples, or pixels, of each class, and pixels that are ignored."""
        if self.labels is None:
            return None, 0
        counts = np.zeros(len(self.report.class_names), dtype=np.int64)
        ignored = 0
        for _, block in blocks(self.labels):
            counted = block[block != self.report.ignore_index] if self.report.ignore_index is not None else block
            counts += np.bincount(counted.reshape(-1), minlength=len(counts))
            ignored += block.size - counted.size
        return counts.tolist(), ignored

    def input(self, modality: Modality, array: npt.NDArray[Any], has: npt.NDArray[np.bool_]) -> InputReport:
        file, split = self.folder / f"{modality.name}.npy", self.folder.name
        found = scan_values(array, has, self.digests)
        if len(found.not_finite):
            self.report.errors.append(not_finite_line(file, modality, split, found.not_finite))
        if not has.any():
            line = f"{file}: modality {modality.name}: no sample has it"
            (self.report.errors if split == "train" else self.report.warnings).append(line)
        elif split == "train" and found.constant == math.prod(modality.shape):
            self.report.warnings.append(constant_line(file, modality))
        self.digests[~has, 0] ^= 1 + self.report.modalities.index(modality)  # so that who lacks it differs
        return InputReport(array.dtype.name, int(has.sum()), len(found.not_finite), found.constant)


def exact_combinations(modalities: Sequence[Modality], has: npt.NDArray[np.bool_]) -> dict[str, int]:
    """How many samples have exactly which modalities, by the combination's name, most first, from (N, M)."""
    names = [modality.name for modality in modalities]
    patterns, counts = np.unique(has, axis=0, return_counts=True)
    found = {
        combination_name(names, itertools.compress(names, pattern)): int(count)
        for pattern, count in zip(patterns, counts, strict=True)
    }
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def find_duplicates(digests: dict[str, npt.NDArray[np.uint8]]) -> list[Duplicates]:
    """Samples of one split that are in another one too, from the digests (N, D) of their samples."""
    keys = np.concatenate(list(digests.values())).view(np.uint64)
    sizes = [len(rows) for rows in digests.values()]
    _, group = np.unique(keys, axis=0, return_inverse=True)
    groups = dict(zip(digests, np.split(group.reshape(-1), np.cumsum(sizes)[:-1]), strict=True))
    found = []
    for other, split in itertools.combinations(digests, 2):
        rows = np.flatnonzero(np.isin(groups[split], groups[other]))
        if len(rows):
            other_row = int(np.flatnonzero(groups[other] == groups[split][rows[0]])[0])
            found.append(Duplicates(split, other, len(rows), int(rows[0]), other_row))
    return found


def _unseen(path: Path, report: DataReport) -> list[str]:
    """Lines on what is in no sample, and on what is in two splits."""
    lines = []
    things = "pixel" if report.task == "segmentation" else "sample"
    for split, found in report.splits.items():
        missing = [name for name, count in zip(report.class_names, found.classes or (), strict=False) if not count]
        if missing:
            some = ", ".join(map(repr, missing[:5])) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
            lines.append(f"{path / split / 'label.npy'}: no {split} {things} of class {some}")
        full = SEPARATOR.join(modality.name for modality in report.modalities)
        if found.samples and full not in found.combinations and len(found.combinations) > 0:
            lines.append(f"{path / split / 'present.npy'}: no {split} sample has all modalities")
    for same in report.duplicates:
        lines.append(
            f"{path / same.split}: {same.count} of {report.splits[same.split].samples} samples also in {same.other}, "
            f"the same in all modalities; row {same.row} is row {same.other_row} there"
        )
    return lines
