"""The data set as MLflow keeps it: an input of a run for each split it may read.

MLflow knows a data set by its name and digest, so each split is one, with the split as its context.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import weakref
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dmr.data.dataset import MultimodalDataset, Split
from dmr.studies.study_file.plan import StudyPlan

DIGEST_BYTES = 4  # as many as MLflow's own data sets have
_INPUTS: dict[tuple[int, str], list[dict[str, str]]] = {}  # by a plan's id: a digest reads all of a split


def searched_inputs(plan: StudyPlan) -> list[dict[str, str]]:
    """What MLflow is told of the splits that a search reads."""
    return _inputs(plan, "train") + _inputs(plan, "val")


def tested_inputs(plan: StudyPlan) -> list[dict[str, str]]:
    """What MLflow is told of the splits that a confirmation reads."""
    return searched_inputs(plan) + _inputs(plan, "test")


def _inputs(plan: StudyPlan, split: str) -> list[dict[str, str]]:
    """Of a split, computed once per plan."""
    key = (id(plan), split)
    if key not in _INPUTS:
        _INPUTS[key] = dataset_inputs(plan.dataset, plan.document["dataset"], (split,))
        weakref.finalize(plan, _INPUTS.pop, key, None)
    return _INPUTS[key]


def dataset_inputs(dataset: MultimodalDataset, given: Mapping[str, Any], splits: Iterable[str]) -> list[dict[str, str]]:
    """The fields of MLflow's Dataset, and `context`, of each of the `splits` that there are.

    Args:
        given: the study file's `dataset`.
    """
    source: dict[str, Any]
    if "path" in given:
        source_type, source = "local", {"uri": Path(str(given["path"])).resolve().as_uri()}
    else:
        source_type, source = (
            "code",
            {"tags": {"mlflow.source.name": str(given["name"]), "mlflow.source.type": "LOCAL"}},
        )
        source |= {key: value for key, value in given.items() if key != "name"}
    return [
        {
            "name": dataset.name,
            "digest": split_digest(dataset, name),
            "source_type": source_type,
            "source": json.dumps(source, default=str),
            "schema": json.dumps({"mlflow_colspec": _columns(dataset)}),
            "profile": json.dumps(_profile(dataset, dataset.splits[name])),
            "context": name,
        }
        for name in splits
        if name in dataset.splits
    ]


def split_digest(dataset: MultimodalDataset, name: str) -> str:
    """What a split is known by: the values of arrays in memory, size and time of the files of memory maps."""
    split = dataset.splits[name]
    digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
    described = [(modality.name, modality.kind, modality.shape) for modality in dataset.modalities]
    digest.update(repr((name, dataset.task, dataset.class_names, dataset.ignore_index, described)).encode())
    for array in (*(split.inputs[name] for name in dataset.modality_names), split.labels, split.rows, split.present):
        digest.update(b"|")
        if array is not None:
            _add(digest, array)
    return digest.hexdigest()


def _add(digest: Any, array: npt.NDArray[Any]) -> None:
    digest.update(repr((array.dtype.str, array.shape)).encode())
    if isinstance(array, np.memmap) and array.filename is not None:
        found = os.stat(array.filename)
        digest.update(repr((found.st_size, found.st_mtime_ns, array.offset)).encode())
    else:
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8))


def _columns(dataset: MultimodalDataset) -> list[dict[str, str]]:
    shapes = {m.name: f"{m.kind} {' × '.join(map(str, m.shape))}" for m in dataset.modalities}
    classes = f"one of {dataset.num_classes} classes{' per pixel' if dataset.task == 'segmentation' else ''}"
    return [{"name": name, "type": text} for name, text in {**shapes, "label": classes}.items()]


def _profile(dataset: MultimodalDataset, split: Split) -> dict[str, Any]:
    numbers = sum(math.prod(modality.shape) for modality in dataset.modalities)
    has = split.has().mean(axis=0)
    profile = {
        "num_rows": len(split),
        "num_elements": len(split) * numbers,
        "task": dataset.task,
        "classes": dataset.num_classes,
    }
    lacking = {n: round(float(s), 4) for n, s in zip(dataset.modality_names, has, strict=True) if s < 1}
    return profile | ({"samples_with": lacking} if lacking else {})
