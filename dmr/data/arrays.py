"""The `arrays` layout: a folder with dataset.yaml and one memory-mapped .npy file a modality and split."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dmr.data.dataset import KINDS, TASKS, DataError, Modality, MultimodalDataset, Split, stratified_split

log = logging.getLogger("dmr")

ALLOWED_TYPES = ("float32", "float16", "uint8")
VAL_FRACTION = 0.2
SCANNED_BYTES = 64 * 2**20


def arrays(path: Path, seed: int) -> MultimodalDataset:
    """Open a folder in the `arrays` layout, memory-mapped; a missing `val` is split from train, stratified, by `seed`.

    Raises:
        DataError: what is missing or does not fit, by file; nothing but headers and labels is read here.
    """
    description = read_description(path)
    modalities = read_modalities(path, description)
    class_names = read_class_names(path, description)
    splits = {}
    for name in ("train", "val", "test"):
        if name in ("val", "test") and not (path / name).exists():
            continue
        splits[name] = open_split(path / name, modalities, len(class_names))
    if "val" not in splits:
        train = splits["train"]
        kept, held_out = stratified_split(train.labels, (1.0 - VAL_FRACTION, VAL_FRACTION), seed)
        if len(held_out) == 0:
            raise DataError(f"{path / 'train'}: {len(train)} samples are too few to split a val set from")
        splits |= {"train": Split(train.inputs, train.labels, kept), "val": Split(train.inputs, train.labels, held_out)}
    check_classes(path, splits["train"], class_names)
    name = str(description.get("name", path.resolve().name))
    return MultimodalDataset(name, "classification", class_names, modalities, splits, description)


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
        raise DataError(f"{file}: cannot be read: {error}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise DataError(f"{file}{where}: not YAML: {getattr(error, 'problem', None) or error}") from None
    if not isinstance(description, dict):
        raise DataError(f"{file}: a mapping is needed, got {type(description).__name__}")
    task = description.get("task", "classification")
    if task not in TASKS:
        raise DataError(f"{file}: task: got {task!r}; allowed are {', '.join(TASKS)}")
    if task == "segmentation":
        raise DataError(f"{file}: task: segmentation is not supported yet; allowed is classification")
    return description


def read_modalities(path: Path, description: dict[str, Any]) -> tuple[Modality, ...]:
    """Raises:
    DataError: `modalities` in dataset.yaml is missing or an entry of it is not `{name, kind, shape}`.
    """
    file = path / "dataset.yaml"
    entries = description.get("modalities")
    if not isinstance(entries, list) or not entries:
        raise DataError(f"{file}: modalities: a list of {{name, kind, shape}} is needed, got {entries!r}")
    modalities = []
    for number, entry in enumerate(entries):
        where = f"{file}: modalities[{number}]"
        if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
            raise DataError(f"{where}: a mapping with name, kind and shape is needed, got {entry!r}")
        kind, shape = entry.get("kind"), entry.get("shape")
        if kind not in KINDS:
            raise DataError(f"{where}.kind: got {kind!r}; allowed are {', '.join(KINDS)}")
        if not isinstance(shape, list) or not shape or not all(type(n) is int and n > 0 for n in shape):
            raise DataError(f"{where}.shape: a list of positive whole numbers is needed, got {shape!r}")
        modalities.append(Modality(entry["name"], kind, tuple(shape)))
    return tuple(modalities)


def read_class_names(path: Path, description: dict[str, Any]) -> tuple[str, ...]:
    """Raises:
    DataError: `num_classes` is not a whole number of at least 2, or does not agree with `class_names`.
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
    return tuple(map(str, names))


def open_split(folder: Path, modalities: tuple[Modality, ...], num_classes: int) -> Split:
    """Raises:
    DataError: an array is missing, damaged, of the wrong type or shape, or a label is out of range.
    """
    labels = open_array(folder / "label.npy")
    if labels.dtype != np.int64 or labels.ndim != 1:
        raise DataError(f"{folder / 'label.npy'}: int64 of shape (N,) is needed, got {labels.dtype} {labels.shape}")
    if len(labels) == 0:
        raise DataError(f"{folder / 'label.npy'}: no samples")
    outside = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if len(outside):
        row = int(outside[0])
        raise DataError(
            f"{folder / 'label.npy'}: row {row}: label {int(labels[row])}; allowed are 0 to {num_classes - 1}"
        )
    if (folder / "present.npy").exists():
        raise DataError(f"{folder / 'present.npy'}: samples that lack modalities are not supported yet")
    inputs = {}
    for modality in modalities:
        file = folder / f"{modality.name}.npy"
        array = open_array(file)
        if array.dtype.name not in ALLOWED_TYPES or not array.dtype.isnative:
            raise DataError(f"{file}: type {array.dtype}; allowed are {', '.join(ALLOWED_TYPES)} in native byte order")
        if array.shape[1:] != modality.shape:
            raise DataError(f"{file}: samples of shape {array.shape[1:]}; dataset.yaml says {modality.shape}")
        if len(array) != len(labels):
            raise DataError(f"{file}: {len(array)} samples, but label.npy has {len(labels)}")
        inputs[modality.name] = array
    return Split(inputs, np.asarray(labels))


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
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if "Python objects" in reason or "pickle" in reason:
            reason = "pickled objects are not read"
        raise DataError(f"{file}: not a readable .npy array: {reason}") from None
    if not isinstance(array, np.ndarray):
        raise DataError(f"{file}: not a readable .npy array: an archive of several arrays (.npz)")
    return array


def check_classes(path: Path, train: Split, class_names: tuple[str, ...]) -> None:
    """Raises:
    DataError: a class has a single training sample: nothing can be learned of it or held out.
    """
    counts = np.bincount(train.targets(), minlength=len(class_names))
    for label in np.flatnonzero(counts == 1):
        file = path / "train" / "label.npy"
        raise DataError(f"{file}: class {class_names[label]!r} has a single sample; 2 are needed")
    for label in np.flatnonzero(counts == 0):
        log.warning("%s: class %r has no training sample", path / "train" / "label.npy", class_names[label])


def check_values(path: Path, dataset: MultimodalDataset) -> list[str]:
    """Read every input once; returns warnings, a line a modality that is constant in train.

    Raises:
        DataError: NaN or infinity in an input: modality, split and first row.
    """
    warnings = []
    for split, modality in itertools.product(dataset.splits, dataset.modalities):
        file = path / split / f"{modality.name}.npy"
        if not file.exists():
            continue
        array = open_array(file)
        first, constant = array[0], True
        for start, block in _blocks(array):
            if block.dtype.kind == "f":
                finite = np.isfinite(block).reshape(len(block), -1).all(axis=1)
                if not finite.all():
                    row = start + int(np.argmin(finite))
                    raise DataError(f"{file}: modality {modality.name}, split {split}, row {row}: NaN or infinity")
            constant = constant and bool((block == first).all())
        if constant and split == "train":
            warnings.append(f"{file}: modality {modality.name} is the same in every training sample")
    return warnings


def _blocks(array: npt.NDArray[Any]) -> Iterator[tuple[int, npt.NDArray[Any]]]:
    rows = max(1, SCANNED_BYTES // max(1, array[0].nbytes))
    for start in range(0, len(array), rows):
        yield start, np.asarray(array[start : start + rows])
