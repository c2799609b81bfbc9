from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner, Result

from dmr.studies.cli.entry_point import app


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two modalities, 40 classes of 3 training samples; half of the samples lack `skin`."""
    folder, draw = tmp_path / "sensors", np.random.default_rng(0)
    for split, count in (("train", 120), ("val", 80)):
        (folder / split).mkdir(parents=True)
        np.save(folder / split / "label.npy", np.arange(count, dtype=np.int64) % 40)
        for name in ("ecg", "skin"):
            np.save(folder / split / f"{name}.npy", draw.standard_normal((count, 4)).astype(np.float32))
        np.save(folder / split / "present.npy", np.array([[True, True], [True, False]])[np.arange(count) % 2])
    description = {
        "num_classes": 40,
        "class_names": [f"person {number}" for number in range(40)],
        "modalities": [
            {"name": "ecg", "kind": "vector", "shape": [4], "unit": "mV"},
            {"name": "skin", "kind": "vector", "shape": [4], "unit": "mV"},
        ],
        "licence": "CC0 " * 40,
        "recorded": {"year": 2024, "by": ["us", "them"]},
    }
    (folder / "dataset.yaml").write_text(yaml.safe_dump(description), encoding="utf-8")
    return folder


def check(folder: Path, *options: str, width: int = 80) -> Result:
    searched = list(sys.path)
    try:
        return CliRunner(env={"COLUMNS": str(width)}).invoke(app, ["data", "check", str(folder), *options])
    finally:
        sys.path[:] = searched


def change(file: Path, at: Any, value: float) -> None:
    array = np.load(file)
    array[at] = value
    np.save(file, array)


@pytest.mark.parametrize("width", [80, 120])
def test_a_page_for_people(folder: Path, width: int) -> None:
    result = check(folder, width=width)
    assert result.exit_code == 0
    assert result.stderr == ""
    lines = [line.rstrip() for line in result.stdout.splitlines()]
    assert lines[0] == f"sensors: classification, 40 classes, {folder}"
    assert max(map(len, lines[1:])) <= width
    assert len(lines) < 50
    words = [" ".join(line.split()) for line in lines]
    assert "skin vector 4 float32 60 50.0% 40 50.0%" in words
    assert "ecg vector 4 float32 120 80" in words
    assert "person 39 3 2.5% 2 2.5%" in words
    assert "... 28 more ..." in words
    assert "ecg-skin 60 50.0% 40 50.0%" in words
    assert "recorded by: [us, them], year: 2024" in words
    assert "ecg, skin unit: mV" in words
    assert lines[-1] == "nothing would spoil a study"


def test_what_is_wrong_is_shown_and_is_the_exit_code(folder: Path) -> None:
    change(folder / "train" / "ecg.npy", ([2, 5], 1), np.nan)
    change(folder / "val" / "label.npy", 3, 40)
    change(folder / "train" / "skin.npy", slice(None), 1.0)
    result = check(folder)
    assert result.exit_code == 1
    lines = [line.rstrip() for line in result.stdout.splitlines()]
    assert lines[-4:] == [
        "error: train/ecg.npy: modality ecg, split train, row 2: NaN or infinity, and in 1 more",
        "error: val/label.npy: row 3: label 40; allowed are 0 to 39",
        "warning: train/skin.npy: modality skin is the same in every training sample",
        "2 errors would spoil a study, 1 warning",
    ]
    words = [" ".join(line.split()) for line in lines]
    assert "not finite 2" in words
    assert "constant 4 of 4" in words
    assert "person 0 3 2.5% ?" in words


def test_all_of_it_for_machines(folder: Path) -> None:
    sound = check(folder, "--format", "json")
    assert sound.exit_code == 0
    report = json.loads(sound.stdout)
    assert report["splits"]["val"]["combinations"] == {"ecg": 40, "ecg-skin": 40}
    assert report["splits"]["train"]["inputs"]["skin"] == {
        "type": "float32",
        "present": 60,
        "not_finite": 0,
        "constant": 0,
    }
    assert report["modalities"][0] == {"name": "ecg", "kind": "vector", "shape": [4]}
    assert report["description"]["recorded"] == {"year": 2024, "by": ["us", "them"]}
    change(folder / "train" / "ecg.npy", (2, 1), np.inf)
    spoiled = check(folder, "--format", "json")
    assert spoiled.exit_code == 1
    assert json.loads(spoiled.stdout)["errors"] == [
        f"{folder}/train/ecg.npy: modality ecg, split train, row 2: NaN or infinity"
    ]


@pytest.mark.parametrize("form", ["text", "json"])
@pytest.mark.parametrize("missing", ["folder", "dataset.yaml"])
def test_what_is_no_data_folder(tmp_path: Path, missing: str, form: str) -> None:
    folder = tmp_path / "nothing"
    if missing == "dataset.yaml":
        folder.mkdir()
    result = check(folder, "--format", form)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr == f"{folder}/dataset.yaml: no such file; a data folder has a dataset.yaml\n"


def test_brackets_in_names_are_text(folder: Path) -> None:
    description = yaml.safe_load((folder / "dataset.yaml").read_text(encoding="utf-8"))
    description["name"] = "[bold]x[/]"
    description["class_names"][0] = "[red]0[/red]"
    description["notes"] = "[/nothing] at all"
    (folder / "dataset.yaml").write_text(yaml.safe_dump(description), encoding="utf-8")
    result = check(folder)
    assert result.exit_code == 0
    for text in ("[bold]x[/]: ", "[red]0[/red]", "[/nothing] at all"):
        assert text in result.stdout
