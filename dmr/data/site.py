"""Data of another place, to evaluate a trained network on: a folder in the `arrays` layout that may have a single split
and may lack whole modalities.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from dmr.data.arrays import (
    not_finite_line,
    open_input,
    open_labels,
    open_present,
    read_class_names,
    read_description,
    read_ignore_index,
    read_modalities,
    read_name,
)
from dmr.data.dataset import DataError, Modality, MultimodalDataset, Split
from dmr.data.scan import scan_values

SPLITS = ("train", "val", "test")


def open_site(path: Path, split: str | None, known: MultimodalDataset) -> tuple[str, MultimodalDataset]:
    """A split of a folder as data of the kind of `known`, and its name.

    Args:
        split: None takes the only one that is there, else `val`.

    Raises:
        DataError: no such split, or it is not of that kind: task, classes, modalities, sizes of label maps; or values
            that are not finite.
    """
    description = read_description(path)
    file = path / "dataset.yaml"
    there = [name for name in SPLITS if (path / name).is_dir()]
    if split is None:
        split = there[0] if len(there) == 1 else "val"
    if split not in there:
        raise DataError(f"{path}: there is no split {split}; it has {', '.join(there) or 'none'}")
    task = description.get("task", "classification")
    if task != known.task:
        raise DataError(f"{file}: task: got {task}; the model is for {known.task}")
    _check_classes(file, description, read_class_names(path, description), known)
    modalities = read_modalities(path, description)
    _check_modalities(file, modalities, known)
    ignore_index = read_ignore_index(path, description, task)
    labels = open_labels(path / split / "label.npy", known.num_classes, task, ignore_index)
    size = next(iter(known.splits.values())).labels.shape[1:]
    if labels.shape[1:] != size:
        came, wanted = (" × ".join(map(str, shape)) for shape in (labels.shape[1:], size))
        raise DataError(f"{path / split / 'label.npy'}: label maps of {came}; the model's have {wanted}")
    own = open_present(path / split / "present.npy", len(labels), len(modalities))
    columns = [modality.name for modality in modalities]
    present = np.zeros((len(labels), len(known.modalities)), dtype=bool)
    inputs = {}
    for m, modality in enumerate(known.modalities):
        if modality.name not in columns:
            inputs[modality.name] = np.broadcast_to(np.zeros((), np.float32), (len(labels), *modality.shape))
            continue
        inputs[modality.name] = open_input(path / split, modality, len(labels))
        present[:, m] = True if own is None else own[:, columns.index(modality.name)]
        found = scan_values(inputs[modality.name], present[:, m])
        if len(found.not_finite):
            raise DataError(not_finite_line(path / split / f"{modality.name}.npy", modality, split, found.not_finite))
    samples = Split(inputs, labels, present=None if present.all() else present)
    name = read_name(path, description)
    return split, replace(known, name=name, splits={split: samples}, description=description, ignore_index=ignore_index)


def _check_classes(
    file: Path, description: Mapping[str, Any], names: tuple[str, ...], known: MultimodalDataset
) -> None:
    if len(names) != known.num_classes:
        raise DataError(f"{file}: num_classes: got {len(names)}; the model has {known.num_classes}")
    for number, (own, trained) in enumerate(zip(names, known.class_names, strict=True)):
        if own != trained and description.get("class_names") is not None:
            raise DataError(f"{file}: class_names[{number}]: got {own!r}; the model's is {trained!r}")


def _check_modalities(file: Path, modalities: tuple[Modality, ...], known: MultimodalDataset) -> None:
    trained = {modality.name: modality for modality in known.modalities}
    for number, modality in enumerate(modalities):
        where = f"{file}: modalities[{number}]"
        if modality.name not in trained:
            raise DataError(f"{where}: got {modality.name!r}; the model's modalities are {', '.join(trained)}")
        if modality in modalities[:number]:
            raise DataError(f"{where}: {modality.name!r} comes twice")
        for key in ("kind", "shape"):
            own, wanted = getattr(modality, key), getattr(trained[modality.name], key)
            if own != wanted:
                raise DataError(f"{where}.{key}: {modality.name} has {_text(own)}; the model's has {_text(wanted)}")


def _text(value: Any) -> str:
    return str(list(value)) if isinstance(value, tuple) else str(value)
