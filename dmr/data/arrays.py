"""The `arrays` layout: a folder with dataset.yaml and one memory-mapped .npy file per modality and split."""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dmr.data.dataset import (
    INPUT_TYPES,
    KINDS,
    TASKS,
    DataError,
    Modality,
    MultimodalDataset,
    Split,
    Task,
    check_class_names,
    check_dataset_name,
    stratified_split,
)
from dmr.data.scan import blocks, scan_values
from dmr.data.yaml_text import text_rule
from dmr.files import user_path
from dmr.object_storage.cache import fetch_folder
from dmr.object_storage.store import ObjectStore, StoreRefused, is_url

log = logging.getLogger("dmr")

VAL_FRACTION = 0.2
OTHER_FILES = ("label", "present")  # of a split, beside those named after modalities


def data_folder(given: str | Path) -> Path:
    """A data folder that somebody named, on this machine: what lies below a URL such as `s3://bucket/sensors` is
    fetched.

    Raises:
        DataError: the URL cannot be read.
    """
    if not is_url(given):
        return user_path(given)
    try:
        return fetch_folder(ObjectStore(given))
    except (ValueError, StoreRefused, OSError) as error:
        where = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) and error.filename else error
        raise DataError(str(where)) from None


def arrays(path: Path, seed: int) -> MultimodalDataset:
    """Open a folder in the `arrays` layout, memory-mapped; a missing `val` is split from train, stratified, by `seed`.

    Raises:
        DataError: what is missing or does not fit, by file; nothing but headers and labels is read here.
    """
    dataset = read_arrays(path, seed)
    for line in [*drawn_val(path), *unseen_classes(path, dataset)]:
        log.warning("%s", line)
    return dataset


def read_arrays(path: Path, seed: int) -> MultimodalDataset:
    """`arrays` without its warnings."""
    description = read_description(path)
    modalities = read_modalities(path, description)
    class_names = read_class_names(path, description)
    task = description.get("task", "classification")
    ignore_index = read_ignore_index(path, description, task)
    splits = {}
    for name in ("train", "val", "test"):
        if name in ("val", "test") and not (path / name).exists():
            continue
        splits[name] = open_split(path / name, modalities, len(class_names), task, ignore_index)
    if "val" not in splits:
        train = splits["train"]
        strata = train.labels if task == "classification" else np.zeros(len(train), dtype=np.int64)
        kept, held_out = stratified_split(strata, (1.0 - VAL_FRACTION, VAL_FRACTION), seed)
        if len(held_out) == 0:
            raise DataError(f"{path / 'train'}: {len(train)} samples are too few to split a val set from")
        splits |= {"train": replace(train, rows=kept), "val": replace(train, rows=held_out)}
        check_counted(path, splits, ignore_index)
    if task == "classification":
        check_classes(path, splits["train"], class_names)
    else:
        check_map_sizes(path, splits)
    name = read_name(path, description)
    return MultimodalDataset(name, task, class_names, modalities, splits, description, ignore_index)


def read_description(path: Path) -> dict[str, Any]:
    """The mapping in dataset.yaml.

    Raises:
        DataError: no such folder or file, or not a YAML mapping.
    """
    import yaml

    file = path / "dataset.yaml"
    try:
        description = yaml.safe_load(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{file}: no such file; a data folder has a dataset.yaml") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise DataError(f"{file}{where}: not YAML: {getattr(error, 'problem', None) or error}") from None
    if not isinstance(description, dict):
        raise DataError(f"{file}: a mapping is needed, got {type(description).__name__}")
    task = description.get("task", "classification")
    if task not in TASKS:
        raise DataError(f"{file}: task: got {task!r}; allowed are {', '.join(TASKS)}")
    return description


def read_name(path: Path, description: dict[str, Any]) -> str:
    """The data set's name: `name` in dataset.yaml, else the folder's.

    Raises:
        DataError: it is no text, or too long.
    """
    name = description.get("name")
    name = path.resolve().name if name is None else name
    try:
        check_dataset_name(name)
    except DataError as error:
        raise DataError(f"{path / 'dataset.yaml'}: {error}") from None
    return str(name)


def read_modalities(path: Path, description: dict[str, Any]) -> tuple[Modality, ...]:
    """The modalities that dataset.yaml lists.

    Raises:
        DataError: `modalities` in dataset.yaml is missing or an entry of it is not `{name, kind, shape}`.
    """
    file = path / "dataset.yaml"
    entries = description.get("modalities")
    if not isinstance(entries, list) or not entries:
        raise DataError(f"{file}: modalities: a list of {{name, kind, shape}} is needed, got {entries!r}")
    return tuple(read_modality(f"{file}: modalities[{number}]", entry) for number, entry in enumerate(entries))


def read_modality(where: str, entry: Any) -> Modality:
    """One entry of `modalities`; `where` begins its messages.

    Raises:
        DataError: an entry is not `{name, kind, shape}`.
    """
    if not isinstance(entry, dict) or "name" not in entry:
        raise DataError(f"{where}: a mapping with name, kind and shape is needed, got {entry!r}")
    if not isinstance(entry["name"], str):
        raise DataError(f"{where}.name: got {entry['name']!r}; allowed: {text_rule(entry['name'])}")
    if entry["name"] in OTHER_FILES:
        raise DataError(f"{where}.name: got {entry['name']!r}; {entry['name']}.npy is no file of inputs: rename it")
    kind, shape = entry.get("kind"), entry.get("shape")
    if kind not in KINDS:
        raise DataError(f"{where}.kind: got {kind!r}; allowed are {', '.join(KINDS)}")
    if not isinstance(shape, list) or not shape or not all(type(n) is int and n > 0 for n in shape):
        raise DataError(f"{where}.shape: a list of positive whole numbers is needed, got {shape!r}")
    return Modality(entry["name"], kind, tuple(shape))


def read_class_names(path: Path, description: dict[str, Any]) -> tuple[str, ...]:
    """The class names; 0, 1, ... where only `num_classes` is given.

    Raises:
        DataError: `num_classes` is not a whole number of at least 2, or does not agree with `class_names`, or a name is
            no text or comes twice.
    """
    file = path / "dataset.yaml"
    names = description.get("class_names")
    count = description.get("num_classes", len(names) if isinstance(names, list) else None)
    if type(count) is not int or count < 2:
        raise DataError(f"{file}: num_classes: a whole number of at least 2 is needed, got {count!r}")
    if names is None:
        return tuple(map(str, range(count)))
    if not isinstance(names, list) or len(names) != count:
        raise DataError(f"{file}: class_names: a list of num_classes = {count} names is needed, got {names!r}")
    try:
        check_class_names(names)
    except DataError as error:
        raise DataError(f"{file}: {error}") from None
    return tuple(names)


def read_ignore_index(path: Path, description: dict[str, Any], task: str) -> int | None:
    """The label of pixels that count nowhere, None where there is none.

    Raises:
        DataError: it is no whole number, or the task has no pixels to ignore.
    """
    index = description.get("ignore_index")
    if index is not None and (type(index) is not int or task != "segmentation"):
        raise DataError(f"{path / 'dataset.yaml'}: ignore_index: a whole number, for segmentation, got {index!r}")
    return index


def open_split(
    folder: Path, modalities: tuple[Modality, ...], num_classes: int, task: Task, ignore_index: int | None
) -> Split:
    """The arrays of one split, memory-mapped and checked.

    Raises:
        DataError: an array is missing, damaged, of the wrong type or shape, or a label is out of range.
    """
    labels = open_labels(folder / "label.npy", num_classes, task, ignore_index)
    inputs = {modality.name: open_input(folder, modality, len(labels)) for modality in modalities}
    present = open_present(folder / "present.npy", len(labels), len(modalities))
    return Split(inputs, labels if task == "segmentation" else np.asarray(labels), present=present)


def open_input(folder: Path, modality: Modality, samples: int) -> npt.NDArray[Any]:
    """(N, *shape) of a modality.

    Raises:
        DataError: the array is missing, damaged, of the wrong type or shape.
    """
    file = folder / f"{modality.name}.npy"
    array = open_array(file)
    if array.dtype.name not in INPUT_TYPES or not array.dtype.isnative:
        raise DataError(f"{file}: type {array.dtype}; allowed are {', '.join(INPUT_TYPES)} in native byte order")
    if array.shape[1:] != modality.shape:
        raise DataError(f"{file}: samples of shape {array.shape[1:]}; dataset.yaml says {modality.shape}")
    if len(array) != samples:
        raise DataError(f"{file}: {len(array)} samples, but label.npy has {samples}")
    return array


def open_labels(file: Path, num_classes: int, task: Task, ignore_index: int | None) -> npt.NDArray[np.int64]:
    """(N,) labels or (N, H, W) label maps.

    Raises:
        DataError: of another type or shape, none, or out of range: the first row; or every pixel is ignored.
    """
    labels = open_array(file)
    shape, dimensions = ("(N, H, W)", 3) if task == "segmentation" else ("(N,)", 1)
    if labels.dtype != np.int64 or labels.ndim != dimensions:
        raise DataError(f"{file}: int64 of shape {shape} is needed, got {labels.dtype} {labels.shape}")
    if len(labels) == 0:
        raise DataError(f"{file}: no samples")
    ignored = "" if ignore_index is None else f" and {ignore_index}"
    counted = False
    for start, block in blocks(labels):
        counted = counted or bool((block != ignore_index).any())
        outside = ((block < 0) | (block >= num_classes)) & (block != ignore_index)
        if outside.any():
            row = start + int(np.argwhere(outside)[0, 0])
            raise DataError(
                f"{file}: row {row}: label {int(block[outside][0])}; allowed are 0 to {num_classes - 1}{ignored}"
            )
    if not counted:
        raise DataError(f"{file}: every pixel has the label {ignore_index}, which is ignored; some must have a class")
    return labels


def open_present(file: Path, samples: int, modalities: int) -> npt.NDArray[np.bool_] | None:
    """(N, M) which modalities each sample has; None where there is no such file: all of them.

    Raises:
        DataError: of another type or shape, or a sample without any modality.
    """
    if not file.exists():
        return None
    present = open_array(file)
    if present.dtype != np.bool_ or present.shape != (samples, modalities):
        raise DataError(
            f"{file}: bool of shape ({samples}, {modalities}) is needed, got {present.dtype} {present.shape}"
        )
    lost = np.flatnonzero(~present.any(axis=1))
    if len(lost):
        raise DataError(f"{file}: row {int(lost[0])} has no modality at all; leave such samples out")
    return np.asarray(present)


def open_array(file: Path) -> npt.NDArray[Any]:
    """A memory map of a .npy file.

    Raises:
        DataError: missing, truncated, pickled, or no .npy file.
    """
    try:
        array = np.load(file, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise DataError(f"{file}: no such file") from None
    except (OSError, ValueError, EOFError, MemoryError, OverflowError, SyntaxError) as error:
        reason = (getattr(error, "strerror", None) or str(error) or type(error).__name__).splitlines()[0]
        if "Python objects" in reason or "pickle" in reason:
            reason = "pickled objects are not read"
        raise DataError(f"{file}: not a readable .npy array: {reason}") from None
    if not isinstance(array, np.ndarray):
        raise DataError(f"{file}: not a readable .npy array: an archive of several arrays (.npz)")
    return array


def check_classes(path: Path, train: Split, class_names: tuple[str, ...]) -> None:
    """Refuse classes with a single training sample.

    Raises:
        DataError: a class has a single training sample: nothing can be learned of it or held out.
    """
    counts = np.bincount(train.targets(), minlength=len(class_names))
    for label in np.flatnonzero(counts == 1):
        file = path / "train" / "label.npy"
        raise DataError(f"{file}: class {class_names[label]!r} has a single sample; 2 are needed")


def unseen_classes(path: Path, dataset: MultimodalDataset) -> list[str]:
    """A line for each class without a training sample."""
    if dataset.task != "classification":
        return []
    counts = np.bincount(dataset.splits["train"].targets(), minlength=dataset.num_classes)
    file = path / "train" / "label.npy"
    return [f"{file}: class {dataset.class_names[c]!r} has no training sample" for c in np.flatnonzero(counts == 0)]


def drawn_val(path: Path) -> list[str]:
    """A line where `val` is drawn from train: what that may mean."""
    if (path / "val").exists():
        return []
    return [
        f"{path}: no val folder, so a fifth of train is drawn as val; where several samples are of one person or "
        "recording, such groups are not kept together and val is too optimistic: then bring a val of your own"
    ]


def check_counted(path: Path, splits: Mapping[str, Split], ignore_index: int | None) -> None:
    """Refuse splits drawn from train in which no pixel counts.

    Raises:
        DataError: every pixel of a split is ignored.
    """
    for name in ("train", "val") if ignore_index is not None else ():
        if not any((labels != ignore_index).any() for labels in splits[name].each_target()):
            raise DataError(
                f"{path / 'train' / 'label.npy'}: every pixel of the {len(splits[name])} samples drawn for {name} has "
                f"the label {ignore_index}, which is ignored; bring a val of your own"
            )


def check_map_sizes(path: Path, splits: Mapping[str, Split]) -> None:
    """Refuse splits whose label maps have another size than those of train.

    Raises:
        DataError: label maps of another size than those of train.
    """
    size = splits["train"].labels.shape[1:]
    for name, split in splits.items():
        other = split.labels.shape[1:]
        if other != size:
            raise DataError(
                f"{path / name / 'label.npy'}: label maps of {' × '.join(map(str, other))}; "
                f"those of train have {' × '.join(map(str, size))}"
            )


def check_values(path: Path, dataset: MultimodalDataset) -> list[str]:
    """Read every input once; returns warnings, one line per modality that is constant in train.

    Raises:
        DataError: NaN or infinity in an input that is present: modality, split and first row.
    """
    warnings = []
    for split, (m, modality) in itertools.product(dataset.splits, enumerate(dataset.modalities)):
        file = path / split / f"{modality.name}.npy"
        if not file.exists():
            continue
        present = dataset.splits[split].present
        found = scan_values(open_array(file), None if present is None else present[:, m])
        if len(found.not_finite):
            raise DataError(not_finite_line(file, modality, split, found.not_finite))
        if found.constant == math.prod(modality.shape) and split == "train":
            warnings.append(constant_line(file, modality))
    return warnings


def not_finite_line(file: Path, modality: Modality, split: str, rows: npt.NDArray[np.int64]) -> str:
    """What is said of the rows of an input that have NaN or infinity."""
    others = f", and in {len(rows) - 1} more" if len(rows) > 1 else ""
    return f"{file}: modality {modality.name}, split {split}, row {rows[0]}: NaN or infinity{others}"


def constant_line(file: Path, modality: Modality) -> str:
    """What is said of a training input that tells nothing."""
    return f"{file}: modality {modality.name} is the same in every training sample"
