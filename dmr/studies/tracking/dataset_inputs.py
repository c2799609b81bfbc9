"""The data set as MLflow keeps it: an input of a run for each split it may read.

MLflow knows a data set by its name and digest, so each split is one, with the split as its context.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dmr.data.dataset import MultimodalDataset, Split
from dmr.object_storage.store import is_url
from dmr.studies.study_file.plan import StudyPlan

DIGEST_BYTES = 4  # as many as MLflow's own data sets have


def searched_inputs(plan: StudyPlan) -> list[dict[str, str]]:
    """What MLflow is told of the splits that a search reads."""
    return [_input(plan, "train"), _input(plan, "val")]


def tested_inputs(plan: StudyPlan) -> list[dict[str, str]]:
    """What MLflow is told of the splits that a confirmation reads."""
    return [*searched_inputs(plan), _input(plan, "test")]


def _input(plan: StudyPlan, split: str) -> dict[str, str]:
    return dataset_input(plan.dataset, plan.document["dataset"], split, plan.digests_of(split))


def dataset_input(
    dataset: MultimodalDataset, given: Mapping[str, Any], split: str, digests: Mapping[str, str]
) -> dict[str, str]:
    """The fields of MLflow's Dataset, and `context`, of a split.

    Args:
        given: the study file's `dataset`.
        digests: what the split is known by, a plan's `digests_of` it.
    """
    source: dict[str, Any]
    if "path" in given and is_url(given["path"]):
        source_type, source = str(given["path"]).partition(":")[0], {"uri": given["path"]}
    elif "path" in given:
        source_type, source = "local", {"uri": Path(str(given["path"])).resolve().as_uri()}
    else:
        source_type, source = (
            "code",
            {"tags": {"mlflow.source.name": str(given["name"]), "mlflow.source.type": "LOCAL"}},
        )
        source |= {key: value for key, value in given.items() if key != "name"}
    return {
        "name": dataset.name,
        "digest": short_digest(digests),
        "source_type": source_type,
        "source": json.dumps(source, default=str),
        "schema": json.dumps({"mlflow_colspec": _columns(dataset)}),
        "profile": json.dumps(_profile(dataset, dataset.splits[split])),
        "context": split,
    }


def short_digest(digests: Mapping[str, str]) -> str:
    """What a split is known by in MLflow, from its own digests and the facts of its data set."""
    return hashlib.sha256(json.dumps(digests, sort_keys=True).encode()).hexdigest()[: 2 * DIGEST_BYTES]


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
