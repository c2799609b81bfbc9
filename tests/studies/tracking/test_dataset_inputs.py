"""What MLflow is told of a data set."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dmr.data.dataset import Modality, MultimodalDataset, Split
from dmr.studies.tracking.dataset_inputs import dataset_inputs, split_digest


def dataset(inputs: np.ndarray | None = None, present: np.ndarray | None = None) -> MultimodalDataset:
    x = np.arange(12, dtype=np.float32).reshape(4, 3) if inputs is None else inputs
    y = np.zeros((4, 2, 5), dtype=np.uint8)
    labels = np.array([0, 1, 0, 1])
    val = Split({"x": x, "y": y}, labels, rows=np.array([0, 2]))
    splits = {"train": Split({"x": x, "y": y}, labels, present=present), "val": val}
    modalities = (Modality("x", "vector", (3,)), Modality("y", "image", (2, 5)))
    return MultimodalDataset("d", "classification", ("a", "b"), modalities, splits)


def test_each_split_is_a_data_set_of_its_own() -> None:
    present = np.array([[True, True], [True, False], [True, True], [True, True]])
    train, val = dataset_inputs(dataset(present=present), {"name": "m:f", "rate": 2}, ("train", "val", "test"))
    assert [(one["name"], one["context"]) for one in (train, val)] == [("d", "train"), ("d", "val")]
    assert train["digest"] != val["digest"]
    columns = {column["name"]: column["type"] for column in json.loads(train["schema"])["mlflow_colspec"]}
    assert columns == {"x": "vector 3", "y": "image 2 × 5", "label": "one of 2 classes"}
    profile = json.loads(train["profile"])
    assert (profile["num_rows"], profile["num_elements"], profile["samples_with"]) == (4, 52, {"y": 0.75})
    assert "samples_with" not in json.loads(val["profile"])
    assert json.loads(train["source"])["rate"] == 2


def test_the_source_of_a_folder_is_the_folder(tmp_path: Path) -> None:
    train, _ = dataset_inputs(dataset(), {"name": "arrays", "path": str(tmp_path)}, ("train", "val"))
    assert (train["source_type"], json.loads(train["source"])["uri"]) == ("local", tmp_path.as_uri())


def test_the_digest_follows_the_values() -> None:
    digest = split_digest(dataset(), "train")
    assert digest == split_digest(dataset(), "train")
    changed = np.arange(12, dtype=np.float32).reshape(4, 3)
    changed[3, 2] = 0.0
    assert split_digest(dataset(changed), "train") != digest
    assert split_digest(dataset(present=np.array([[True, False]] * 4)), "train") != digest
    assert split_digest(replace(dataset(), class_names=("b", "a")), "train") != digest


def test_the_digest_of_a_memory_map_follows_size_and_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "x.npy"
    np.save(file, np.arange(12, dtype=np.float32).reshape(4, 3))
    mapped = dataset(np.load(file, mmap_mode="r"))
    digest = split_digest(mapped, "train")
    monkeypatch.setattr(np, "ascontiguousarray", lambda array: pytest.fail("read") if array.shape == (4, 3) else array)
    assert split_digest(mapped, "train") == digest
    os.utime(file, (0, 0))
    assert split_digest(mapped, "train") != digest
