"""Data that change, move or are copied between a run and the next command, in a study that was trained without Ray."""

from __future__ import annotations

import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from dmr.files import write_text
from dmr.studies.stages.search_stage import SearchStage
from dmr.studies.storage.locations import StoreUris
from dmr.studies.storage.mlflow_store import open_mlflow
from dmr.studies.storage.optuna_storage import open_optuna
from dmr.studies.storage.study_folder import StudyFolder
from dmr.studies.study_file.plan import load_plan
from dmr.studies.tracking.tracker import Tracker
from dmr.studies.trial_outcomes import TrialOutcome
from dmr.studies.workers.checkpoint_reporter import FolderReporter
from dmr.studies.yaml_io import to_yaml
from dmr.training import EpochReport, fit


class Quiet(FolderReporter):
    def report(self, report: EpochReport) -> None:
        """Nobody listens."""


def train_without_ray(place: Any) -> StudyFolder:
    """The study in small.yaml, of one trial, as an earlier version left it: without a data.json."""
    plan = load_plan(place.path / "small.yaml", [], None, None)
    folder = StudyFolder(place.path / "dmr_runs", "small")
    folder.path.mkdir(parents=True)
    uri = f"sqlite:///{place.path / 'mlflow.db'}"
    folder.remember(StoreUris(uri, folder.optuna_url))
    write_text(folder.study_file, to_yaml(plan.document))
    tracker = Tracker(folder.journal, uri, open_mlflow(uri, plan.document["experiment"]))
    stage = SearchStage(plan, open_optuna(folder.optuna_url), tracker, folder, may_exist=True)
    stage.open()
    record = stage.begin()
    assert record is not None
    reporter = Quiet(folder.run("search", 0), stage.scheduler_metric)
    stage.epoch(0, fit(stage.dataset, record.settings, torch.device("cpu"), reporter))
    stage.finish(0, TrialOutcome("completed"))
    assert tracker.close(timeout=30.0)
    return folder


@pytest.fixture
def study(place: Any) -> Any:
    """A place whose data, sensors/, are its own, with `small` and its folder."""
    shared = (place.path / "sensors").resolve()
    (place.path / "sensors").unlink()
    shutil.copytree(shared, place.path / "sensors")
    place.write(train__epochs=1, budget={"trials": 1})
    place.folder = train_without_ray(place)
    return place


def permute_labels(folder: Path) -> None:
    file = np.load(folder / "train/label.npy", mmap_mode="r+")
    file[:] = file[::-1].copy()
    file.flush()


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def succeeds(place: Any, *arguments: Any) -> str:
    done = place.dmr(*arguments)
    assert done.exit_code == 0, done.output
    return str(done.stderr)


def refused(place: Any, *arguments: Any) -> list[str]:
    done = place.dmr(*arguments)
    assert (done.exit_code, done.stdout) == (2, ""), done.output
    return list(done.stderr.splitlines())


def test_data_that_have_changed_are_refused_until_they_are_said_to_be_the_same(study: Any, caplog: Any) -> None:
    (run,) = study.mlflow_runs()
    sensors, folder = study.path / "sensors", study.folder
    assert not folder.data_file.exists()
    assert "study small is complete: 1 trial" in succeeds(study, "run", "small.yaml")
    kept = json.loads(folder.data_file.read_text())
    assert {"train/label", "val/ecg", "test/skin", "class_names"} <= set(kept)
    succeeds(study, "evaluate", run.info.run_id)
    assert warnings(caplog) == []

    permute_labels(sensors)
    before = {file: file.read_bytes() for file in (folder.journal, folder.study_file, folder.data_file)}
    changed = f"{sensors / 'train/label.npy'}: other values than when the study began"
    for command in (
        ("run", "small.yaml"),
        ("resume", "small"),
        ("resume", "small", "--trials", 9),
        ("confirm", "small"),
    ):
        first, advice = refused(study, *command)
        assert first == changed
        assert "--same-data" in advice
    assert {file: file.read_bytes() for file in before} == before
    warning = f"small trial 0 was trained with other data: {changed}"
    for command in (("evaluate", run.info.run_id), ("export", "small", "-o", "exported")):
        succeeds(study, *command)
        assert warning in caplog.messages
        caplog.clear()
    succeeds(study, "evaluate", run.info.run_id, "--data", sensors)
    assert warning not in caplog.messages

    succeeds(study, "resume", "small", "--same-data")
    now = json.loads(folder.data_file.read_text())
    assert [key for key in kept if now[key] != kept[key]] == ["train/label"]
    succeeds(study, "run", "small.yaml")
    permute_labels(sensors)
    assert refused(study, "resume", "small")[0] == changed
    succeeds(study, "run", "small.yaml", "--same-data")
    assert json.loads(folder.data_file.read_text()) == kept


def test_data_that_were_touched_copied_or_moved_go_on_without_a_word(study: Any, caplog: Any) -> None:
    """Their folder has no `name` in dataset.yaml: the experiment is named after it, and stays."""
    folder = study.folder
    succeeds(study, "run", "small.yaml")
    for file in (study.path / "sensors").glob("*/*.npy"):
        os.utime(file, (0, 0))
    succeeds(study, "resume", "small")
    (study.path / "sensors").rename(study.path / "moved")
    assert "sensors/dataset.yaml: no such file" in refused(study, "resume", "small")[0]
    study.write(train__epochs=1, budget={"trials": 1}, dataset__path="moved")
    succeeds(study, "run", "small.yaml")
    document = yaml.safe_load(folder.study_file.read_text())
    assert (document["dataset"]["path"], document["experiment"]) == (str(study.path / "moved"), "sensors")
    succeeds(study, "resume", "small")
    assert len(study.mlflow_runs()) == len(study.mlflow_runs(stage="study")) == 1
    assert warnings(caplog) == []

    permute_labels(study.path / "moved")
    shutil.copytree(study.path / "moved", study.path / "copied")
    study.write(train__epochs=1, budget={"trials": 1}, dataset__path="copied")
    assert refused(study, "run", "small.yaml")[0].startswith(str(study.path / "copied/train/label.npy"))


def test_data_of_a_study_of_an_earlier_version_move_only_where_somebody_says_so(study: Any) -> None:
    """Nobody knows what it was trained on."""
    (study.path / "sensors").rename(study.path / "moved")
    study.write(train__epochs=1, budget={"trials": 1}, dataset__path="moved", experiment="sensors")
    path, advice = refused(study, "run", "small.yaml")
    assert path == f"small.yaml: dataset.path: was {study.path / 'sensors'}, is {study.path / 'moved'}"
    assert advice.endswith("where only the data have moved, with --same-data")
    succeeds(study, "run", "small.yaml", "--same-data")
    succeeds(study, "run", "small.yaml")


def test_a_single_training_goes_on_only_with_its_data(study: Any) -> None:
    succeeds(study, "train", "small.yaml")
    permute_labels(study.path / "sensors")
    assert refused(study, "train", "small.yaml")[0].startswith(str(study.path / "sensors/train/label.npy"))
    succeeds(study, "train", "small.yaml", "--same-data")
    succeeds(study, "train", "small.yaml")


def test_a_single_training_whose_checkpoint_was_deleted_begins_again(study: Any) -> None:
    first = study.dmr("train", "small.yaml")
    checkpoint = Path(first.stderr.splitlines()[-1].removeprefix("checkpoint: "))
    checkpoint.unlink()
    again = study.dmr("train", "small.yaml")
    assert (again.exit_code, again.stdout) == (0, first.stdout)
    assert f"{checkpoint} is not there any more: the run begins again" in again.stderr
    assert checkpoint.exists()
    assert "is not there" not in succeeds(study, "train", "small.yaml")


def test_a_winner_whose_checkpoint_was_deleted_is_a_line(study: Any) -> None:
    checkpoint = study.folder.run("search", 0) / "best.pt"
    checkpoint.unlink()
    (run,) = study.mlflow_runs()
    deleted = f"small trial 0: {checkpoint}: not there any more: it was deleted by hand"
    for command in (("export", "small", "-o", "exported"), ("evaluate", run.info.run_id)):
        (line,) = refused(study, *command)
        assert line.startswith(deleted)
