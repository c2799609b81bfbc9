"""What MLflow is told of a data set."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from dmr.data.dataset import Modality, MultimodalDataset, Split
from dmr.studies.study_file.data_digests import dataset_facts, split_digests
from dmr.studies.tracking.dataset_inputs import dataset_input, short_digest


def dataset(inputs: np.ndarray | None = None, present: np.ndarray | None = None) -> MultimodalDataset:
    x = np.arange(12, dtype=np.float32).reshape(4, 3) if inputs is None else inputs
    y = np.zeros((4, 2, 5), dtype=np.uint8)
    labels = np.array([0, 1, 0, 1])
    val = Split({"x": x, "y": y}, labels, rows=np.array([0, 2]))
    splits = {"train": Split({"x": x, "y": y}, labels, present=present), "val": val}
    modalities = (Modality("x", "vector", (3,)), Modality("y", "image", (2, 5)))
    return MultimodalDataset("d", "classification", ("a", "b"), modalities, splits)


def digests(of: MultimodalDataset, split: str) -> dict[str, str]:
    return dataset_facts(of) | split_digests(of, split)


def digest(of: MultimodalDataset) -> str:
    return short_digest(digests(of, "train"))


def test_each_split_is_a_data_set_of_its_own() -> None:
    present = np.array([[True, True], [True, False], [True, True], [True, True]])
    one, given = dataset(present=present), {"name": "m:f", "rate": 2}
    train, val = (dataset_input(one, given, split, digests(one, split)) for split in ("train", "val"))
    assert [(one["name"], one["context"]) for one in (train, val)] == [("d", "train"), ("d", "val")]
    assert train["digest"] != val["digest"]
    columns = {column["name"]: column["type"] for column in json.loads(train["schema"])["mlflow_colspec"]}
    assert columns == {"x": "vector 3", "y": "image 2 × 5", "label": "one of 2 classes"}
    profile = json.loads(train["profile"])
    assert (profile["num_rows"], profile["num_elements"], profile["samples_with"]) == (4, 52, {"y": 0.75})
    assert "samples_with" not in json.loads(val["profile"])
    assert json.loads(train["source"])["rate"] == 2


def test_the_source_of_a_folder_is_the_folder(tmp_path: Path) -> None:
    given = {"name": "arrays", "path": str(tmp_path)}
    train = dataset_input(dataset(), given, "train", digests(dataset(), "train"))
    assert (train["source_type"], json.loads(train["source"])["uri"]) == ("local", tmp_path.as_uri())


def test_the_digest_follows_the_values() -> None:
    known = digest(dataset())
    assert known == digest(dataset())
    assert len(known) == 8
    changed = np.arange(12, dtype=np.float32).reshape(4, 3)
    changed[3, 2] = 0.0
    assert digest(dataset(changed)) != known
    assert digest(dataset(present=np.array([[True, False]] * 4))) != known
    assert digest(replace(dataset(), class_names=("b", "a"))) != known
