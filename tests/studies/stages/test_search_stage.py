"""The bookkeeping on real stores: what a restart finds."""

from __future__ import annotations

import json
import logging
import platform
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import optuna
import pytest
import torch
from mlflow.tracking import MlflowClient
from optuna.trial import TrialState

from dmr.checkpoints import save_checkpoint
from dmr.direction import Direction
from dmr.studies.errors import StudyError
from dmr.studies.stages.search_stage import SearchStage
from dmr.studies.storage.mlflow_store import open_mlflow
from dmr.studies.storage.retry_queue import RetryQueue
from dmr.studies.storage.study_folder import StudyFolder
from dmr.studies.storage.trial_files import BEST, LAST
from dmr.studies.study_file.plan import StudyPlan, make_plan
from dmr.studies.tracking.tracker import Tracker
from dmr.studies.trial_outcomes import TrialOutcome
from dmr.studies.workers.checkpoint_reporter import FolderReporter
from dmr.training import EpochReport

METRICS = {"val/accuracy_mean": 0.5, "val/accuracy_worst": 0.25, "train/loss": 1.0}
BEST_VALUES = {"val": {"accuracy": [0.5] * 15}}


@pytest.fixture
def plan() -> StudyPlan:
    return make_plan({"name": "s", "dataset": {"name": "digits"}, "budget": {"trials": 3}}, "s.yaml")


@pytest.fixture
def tracker(tmp_path: Path) -> Iterator[Tracker]:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    tracker = Tracker(tmp_path / "journal.jsonl", uri, open_mlflow(uri, "digits"))
    yield tracker
    tracker.close(timeout=30.0)


class Silent(FolderReporter):
    def report(self, report: EpochReport) -> None:
        """Nobody listens."""


def report(epoch: int) -> EpochReport:
    return EpochReport(epoch, METRICS, 0, METRICS, BEST_VALUES)


def test_a_trial_that_came_back_but_has_not_reported_ends_with_the_epochs_of_its_checkpoint(
    plan: StudyPlan, tracker: Tracker, tmp_path: Path
) -> None:
    storage, folder = optuna.storages.InMemoryStorage(), StudyFolder(tmp_path, "s")
    first = SearchStage(plan, storage, tracker, folder, may_exist=True)
    first.open()
    for _ in range(2):
        record = first.begin()
        assert record is not None
        for epoch in range(20):
            first.epoch(record.number, report(epoch))
        folder.run("search", record.number).mkdir(parents=True)
        save_checkpoint(folder.run("search", record.number) / LAST, {"report": asdict(report(19))})

    second = SearchStage(plan, storage, tracker, folder, may_exist=True)
    second.open()
    second.begin()  # one goes on, the other has not come back yet, when the time is up
    second.end_all(TrialOutcome("time_budget"))
    trials = second.study.get_trials()
    assert [trial.state for trial in trials] == [TrialState.PRUNED, TrialState.PRUNED]
    assert [trial.user_attrs["epochs"] for trial in trials] == [20, 20]
    assert [len(trial.intermediate_values) for trial in trials] == [20, 20]
    assert second.remaining == 1


@pytest.mark.parametrize("told", [True, False])
def test_epochs_that_were_not_evaluated_are_epochs_to_optuna_and_the_scheduler_after_a_restart(
    plan: StudyPlan, tracker: Tracker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: bool
) -> None:
    """Whether or not Optuna's server was there to be told."""
    storage, folder = optuna.storages.InMemoryStorage(), StudyFolder(tmp_path, "s")
    first = SearchStage(plan, storage, tracker, folder, may_exist=True)
    first.open()
    record = first.begin()
    assert record is not None
    if not told:
        monkeypatch.setattr(first, "_put_value", lambda *_: None)
    best = METRICS
    for epoch, value in enumerate((0.5, None, None, 0.7, None)):
        own = {"train/loss": 1.0} | ({} if value is None else {"val/accuracy_mean": value})
        best = best if value is None else METRICS | own
        first.epoch(record.number, EpochReport(epoch, own, 0, best, BEST_VALUES), {"system/memory": 1.0})
    running = [0.5, 0.5, 0.5, 0.7, 0.7]
    assert len(first.study.trials[0].intermediate_values) == (5 if told else 0)

    second = SearchStage(plan, storage, tracker, folder, may_exist=True)
    recorded = [(epoch + 1, value) for epoch, value in enumerate(running)]
    assert [(one.epochs, one.value) for one in second.recorded_epochs()] == recorded
    assert second.begin() is not None
    assert second.study.trials[0].intermediate_values == dict(enumerate(running))


@pytest.mark.parametrize("deleted", [None, BEST, LAST])
def test_a_trial_that_comes_back_without_a_checkpoint_says_that_it_begins_again(
    plan: StudyPlan, tracker: Tracker, tmp_path: Path, caplog: pytest.LogCaptureFixture, deleted: str | None
) -> None:
    storage, folder = optuna.storages.InMemoryStorage(), StudyFolder(tmp_path, "s")
    first = SearchStage(plan, storage, tracker, folder, may_exist=True)
    for has_reported in (True, False):  # the second was killed before its first epoch ended
        record = first.begin()
        assert record is not None
        if has_reported:
            reporter = Silent(folder.run("search", 0), ("val/accuracy_mean", Direction.MAX))
            reporter.save({"report": asdict(report(0)), "network": {}, "diagnosed": []}, is_best=True)
            first.epoch(record.number, report(0))
    if deleted is not None:
        (folder.run("search", 0) / deleted).unlink()
    second = SearchStage(plan, storage, tracker, folder, may_exist=True)
    for _ in range(2):
        assert second.begin() is not None
    lost = f"trial 0: {folder.run('search', 0) / str(deleted)} is not there any more: it begins again"
    warnings = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert warnings == ([] if deleted is None else [lost])
    assert (reporter.load() is None) == (deleted is not None)


def test_first_points_are_enqueued_once_whenever_the_driver_was_killed(
    plan: StudyPlan, tracker: Tracker, tmp_path: Path
) -> None:
    storage = optuna.storages.InMemoryStorage()
    for _ in range(3):
        stage = SearchStage(plan, storage, tracker, StudyFolder(tmp_path, "s"), may_exist=True)
        stage.open()
    assert [trial.state for trial in stage.study.get_trials()] == [TrialState.WAITING]


def test_a_journal_that_cannot_be_written_keeps_optuna_from_being_told(
    plan: StudyPlan, tracker: Tracker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = SearchStage(plan, optuna.storages.InMemoryStorage(), tracker, StudyFolder(tmp_path, "s"), may_exist=True)
    stage.open()
    record = stage.begin()
    assert record is not None
    stage.epoch(record.number, report(0))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tracker.journal, "append", full)
    with stage.guarded():
        stage.finish(record.number, TrialOutcome("pruned"))
    assert stage.error is not None
    assert "No space left on device" in stage.error
    assert stage.study.get_trials()[0].state == TrialState.RUNNING


def test_a_storage_with_somebody_elses_study_of_this_name_is_refused(
    plan: StudyPlan, tracker: Tracker, tmp_path: Path
) -> None:
    storage = optuna.storages.InMemoryStorage()
    optuna.create_study(study_name="s", storage=storage)
    with pytest.raises(optuna.exceptions.DuplicatedStudyError, match="s"):
        SearchStage(plan, storage, tracker, StudyFolder(tmp_path, "s"), may_exist=False)


def test_a_journal_and_a_storage_of_different_trials_are_refused_as_they_are(
    plan: StudyPlan, tracker: Tracker, tmp_path: Path
) -> None:
    storage, folder = optuna.storages.InMemoryStorage(), StudyFolder(tmp_path, "s")
    stage = SearchStage(plan, storage, tracker, folder, may_exist=True)
    stage.open()
    record = stage.begin()
    assert record is not None
    with pytest.raises(StudyError, match=r"no trial 0 of study 's', which .*journal\.jsonl has: it was lost"):
        SearchStage(plan, optuna.storages.InMemoryStorage(), tracker, folder, may_exist=True)
    stage.epoch(record.number, report(0))
    stage.finish(record.number, TrialOutcome("completed"))
    emptied = Tracker(tmp_path / "emptied.jsonl", "sqlite://", "0")
    with pytest.raises(StudyError, match=r"emptied\.jsonl: lacks trial 0, which Optuna's storage has"):
        SearchStage(plan, storage, emptied, folder, may_exist=True)
    emptied.close(timeout=1.0)
    assert (tmp_path / "emptied.jsonl").read_bytes() == b""


def test_the_study_says_on_which_data_and_with_which_versions_it_ran(
    plan: StudyPlan, tracker: Tracker, tmp_path: Path
) -> None:
    SearchStage(plan, optuna.storages.InMemoryStorage(), tracker, StudyFolder(tmp_path, "s"), may_exist=True).open()
    (record,) = [record for record in tracker.journal.read_all() if record["op"] == "start"]
    splits = {name: len(split) for name, split in plan.dataset.splits.items()}
    assert json.loads(record["tags"]["samples"]) == splits | {"classes": 10}
    versions = json.loads(record["tags"]["versions"])
    assert versions["python"] == platform.python_version()
    assert versions["torch"] == torch.__version__
    assert {"ray", "optuna", "mlflow"} <= set(versions)


class Trials:
    """Ends trials of a study that keeps the checkpoint of one, and those with the file's defaults."""

    def __init__(
        self, tracker: Tracker, folder: StudyFolder, storage: optuna.storages.BaseStorage, budget: int
    ) -> None:
        document = {
            "name": "s",
            "dataset": {"name": "digits"},
            "budget": {"trials": budget},
            "checkpoints": {"keep": 1},
        }
        plan = make_plan(document, "s.yaml")
        self.folder, self.stage = folder, SearchStage(plan, storage, tracker, folder, may_exist=True)
        self.stage.open()

    def begin(self) -> int:
        """A trial that runs and has both checkpoints."""
        record = self.stage.begin()
        assert record is not None
        place = self.folder.run("search", record.number)
        place.mkdir(parents=True, exist_ok=True)
        for name in (BEST, LAST):
            (place / name).touch()
        return record.number

    def end(self, number: int, value: float, ending: TrialOutcome) -> None:
        metrics = METRICS | {"val/accuracy_mean": value}
        self.stage.epoch(number, EpochReport(0, metrics, 0, metrics, BEST_VALUES))
        self.stage.finish(number, ending)

    def left(self) -> list[str]:
        return sorted(f"{file.parent.name[-1]}/{file.stem}" for file in self.folder.path.glob("trials/*/*.pt"))


def test_checkpoints_that_nobody_needs_go_as_trials_end(tracker: Tracker, tmp_path: Path) -> None:
    trials = Trials(tracker, StudyFolder(tmp_path, "s"), optuna.storages.InMemoryStorage(), 6)
    for _ in range(5):
        trials.begin()
    trials.end(0, 0.1, TrialOutcome("completed"))  # the file's defaults
    trials.end(1, 0.6, TrialOutcome("completed"))
    trials.end(2, 0.9, TrialOutcome("error", "a fault"))
    trials.end(3, 0.7, TrialOutcome("pruned"))
    assert trials.left() == ["0/best", "3/best", "4/best", "4/last"]
    trials.end(4, 0.5, TrialOutcome("completed"))
    assert trials.left() == ["0/best", "3/best"]


def test_a_checkpoint_goes_only_when_optuna_knows_and_else_when_the_study_is_opened_again(
    tracker: Tracker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage, folder = optuna.storages.InMemoryStorage(), StudyFolder(tmp_path, "s")
    trials = Trials(tracker, folder, storage, 4)
    for _ in range(4):
        trials.begin()
    trials.end(0, 0.1, TrialOutcome("completed"))

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(trials.stage.study, "tell", killed)
        with pytest.raises(KeyboardInterrupt):
            trials.end(1, 0.6, TrialOutcome("completed"))
    trials.stage.retry_queue = RetryQueue()  # what a killed process had not told yet is lost
    assert {"1/best", "1/last"} <= set(trials.left())
    with monkeypatch.context() as patch:
        patch.setattr("dmr.studies.stages.trial_checkpoints.remove_checkpoints", killed)
        with pytest.raises(KeyboardInterrupt):
            trials.end(2, 0.5, TrialOutcome("error", "a fault"))
    assert {"2/best", "2/last"} <= set(trials.left())
    (folder.run("search", 2) / "best.partial").touch()

    again = Trials(tracker, folder, storage, 4)
    assert again.left() == ["0/best", "1/best", "1/last", "3/best", "3/last"]
    assert not (folder.run("search", 2) / "best.partial").exists()
    again.begin()
    again.begin()
    again.end(1, 0.6, TrialOutcome("completed"))
    again.end(3, 0.2, TrialOutcome("completed"))
    assert again.left() == ["0/best", "1/best"]


def test_the_studys_run_has_the_history_of_the_search_once_whenever_the_driver_was_killed(
    plan: StudyPlan, tracker: Tracker, tmp_path: Path
) -> None:
    """A point per trial: the best value so far and the seconds of trials, in the order of the trials."""
    storage, folder = optuna.storages.InMemoryStorage(), StudyFolder(tmp_path, "s")
    first = SearchStage(plan, storage, tracker, folder, may_exist=True)
    first.open()
    for value in (0.5, 0.4, 0.7):
        record = first.begin()
        assert record is not None
        found = METRICS | {"val/accuracy_mean": value}
        first.epoch(record.number, EpochReport(0, found, 0, found, BEST_VALUES))

    def charts() -> dict[str, list[tuple[int, float]]]:
        assert tracker.flush(timeout=30.0)
        client, run_id = MlflowClient(tracker._uri), str(tracker.run_id("study"))
        names = client.get_run(run_id).data.metrics
        return {name: [(p.step, p.value) for p in client.get_metric_history(run_id, name)] for name in names}

    first.finish(1, TrialOutcome("completed"))
    assert charts() == {}  # the trial before it still runs
    first.finish(0, TrialOutcome("error", "it broke"))
    assert charts()["search/best/val/accuracy_mean"] == [(1, 0.4)]
    second = SearchStage(plan, storage, tracker, folder, may_exist=True)
    second.open()
    record = second.begin()
    assert record is not None
    found = METRICS | {"val/accuracy_mean": 0.7}
    second.epoch(record.number, EpochReport(0, found, 0, found, BEST_VALUES))
    second.finish(record.number, TrialOutcome("completed"))
    SearchStage(plan, storage, tracker, folder, may_exist=True).open()
    drawn = charts()
    assert drawn["search/best/val/accuracy_mean"] == [(1, 0.4), (2, 0.7)]
    assert [step for step, _ in drawn["search/seconds"]] == [0, 1, 2]
    seconds = [value for _, value in drawn["search/seconds"]]
    assert seconds[-1] == pytest.approx(sum(tracker.seconds(f"search/{number}") for number in range(3)))
    assert seconds == sorted(seconds)
