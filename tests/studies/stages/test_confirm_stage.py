"""What is confirmed, with which seeds, and that every run is there once whenever the driver was killed."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import torch
from optuna.trial import TrialState

from dmr.studies.stages.confirm_stage import NO_TRIAL, ConfirmStage, choose_configurations
from dmr.studies.stages.search_stage import SearchStage
from dmr.studies.storage.mlflow_store import open_mlflow
from dmr.studies.storage.study_folder import StudyFolder
from dmr.studies.study_file.plan import StudyPlan, make_plan
from dmr.studies.tracking.tracker import Tracker
from dmr.studies.trial_outcomes import TrialOutcome
from dmr.studies.workers.checkpoint_reporter import FolderReporter
from dmr.training import EpochReport, fit

RATE = {"train.learning_rate": {"log_uniform": [1e-5, 1.0]}}
BLOCKS = [{"name": "a", **RATE}, {"name": "b", "model.method": "dropout", **RATE}]
ACCURACY, NLL = "val/accuracy_mean", "val/nll_mean"


def plan(search: Any = RATE, **keys: Any) -> StudyPlan:
    document = {"name": "s", "dataset": {"name": "digits"}, "search": search, "budget": {"trials": 8}}
    return make_plan(copy.deepcopy(document | {"confirm": {"top": 2, "seeds": 2}} | keys), "s.yaml")


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    uri = f"sqlite:///{tmp_path_factory.mktemp('store') / 'mlflow.db'}"
    return uri, open_mlflow(uri, "digits")


@pytest.fixture
def driver(tmp_path: Path, experiment: tuple[str, str]) -> Iterator[Callable[[StudyPlan], SearchStage]]:
    """A search as a driver has it that has just started, always on the same storage."""
    storage = optuna.storages.InMemoryStorage()
    tracker = Tracker(tmp_path / "journal.jsonl", *experiment)

    def start(plan: StudyPlan) -> SearchStage:
        stage = SearchStage(plan, storage, tracker, StudyFolder(tmp_path, "s"), may_exist=True)
        stage.open()
        return stage

    yield start
    tracker.close(timeout=30.0)


def report(accuracy: float, nll: float = 1.0) -> EpochReport:
    metrics = {ACCURACY: accuracy, "val/accuracy_worst": 0.1, NLL: nll}
    return EpochReport(39, metrics, 0, metrics, {"val": {"accuracy": [accuracy] * 15}})


def search(stage: SearchStage, *accuracies: float | tuple[float, float] | None) -> SearchStage:
    """Trials with these values; those with None fail."""
    for value in accuracies:
        record = stage.begin()
        assert record is not None
        if value is None:
            stage.finish(record.number, TrialOutcome("diverged"))
        else:
            stage.epoch(record.number, report(*value) if isinstance(value, tuple) else report(value))
            stage.finish(record.number, TrialOutcome("completed" if value != 0.75 else "pruned"))
    return stage


def names(stage: SearchStage) -> list[tuple[str, str, int]]:
    return [(one.method, one.name, one.trial) for one in choose_configurations(stage)]


def test_the_best_trials_and_the_files_defaults(driver: Callable[[StudyPlan], SearchStage]) -> None:
    stage = search(driver(plan()), 0.2, 0.5, None, 0.75, 0.6)
    assert names(stage) == [("dmrnet", "best 1", 3), ("dmrnet", "best 2", 4), ("dmrnet", "defaults", 0)]
    for one in choose_configurations(stage):
        assert one.point == stage.study.trials[one.trial].params


def test_the_files_defaults_among_the_best_are_trained_once(driver: Callable[[StudyPlan], SearchStage]) -> None:
    assert names(search(driver(plan()), 0.5, 0.9, 0.1)) == [("dmrnet", "best 1", 1), ("dmrnet", "best 2, defaults", 0)]


def test_defaults_that_the_search_did_not_run(driver: Callable[[StudyPlan], SearchStage]) -> None:
    stage = search(driver(plan(first=[], train={"learning_rate": 5.0})), 0.5)
    assert names(stage) == [("dmrnet", "best 1", 0), ("dmrnet", "defaults", NO_TRIAL)]
    assert stage.plan.run_settings(choose_configurations(stage)[-1].point, 1).train.learning_rate == 5.0


def test_defaults_that_failed_are_confirmed_all_the_same(driver: Callable[[StudyPlan], SearchStage]) -> None:
    assert names(search(driver(plan()), None, 0.5)) == [("dmrnet", "best 1", 1), ("dmrnet", "defaults", 0)]


def test_without_the_files_defaults(driver: Callable[[StudyPlan], SearchStage]) -> None:
    """Where every trial failed nothing is confirmed."""
    stage = search(driver(plan(confirm={"top": 1, "seeds": 2, "defaults": False})), None)
    confirmation = ConfirmStage(stage)
    confirmation.open()
    assert (confirmation.total, confirmation.begin(), confirmation.complete) == (0, None, True)
    assert names(search(stage, 0.5, 0.4)) == [("dmrnet", "best 1", 1)]


def test_the_best_of_each_block(driver: Callable[[StudyPlan], SearchStage]) -> None:
    stage = search(driver(plan(BLOCKS, confirm={"top": 1, "seeds": 1})), 0.9, 0.1, 0.95, 0.2, 0.8, 0.3)
    assert names(stage) == [("a", "best 1", 2), ("a", "defaults", 0), ("b", "best 1", 5), ("b", "defaults", 1)]
    assert [one.point["block"] for one in choose_configurations(stage)] == ["a", "a", "b", "b"]


def test_the_pareto_front_by_the_first_objective(driver: Callable[[StudyPlan], SearchStage]) -> None:
    """Higher accuracy and lower nll: trials 1, 3 and 4 are dominated by none."""
    objective = [{"metric": ACCURACY}, {"metric": NLL}]
    stage = driver(plan(objective=objective, confirm={"top": 3, "seeds": 1}))
    search(stage, (0.5, 0.9), (0.6, 0.5), (0.6, 0.6), (0.9, 1.5), (0.2, 0.1), None)
    assert names(stage)[:3] == [("dmrnet", "best 1", 3), ("dmrnet", "best 2", 1), ("dmrnet", "best 3", 4)]


def test_every_pair_is_trained_once_with_fresh_seeds(driver: Callable[[StudyPlan], SearchStage]) -> None:
    seen = []
    search(driver(plan(seed=7)), 0.2, 0.5, 0.6)
    for _ in range(4):  # a driver that is killed while it trains, and one that goes on
        confirmation = ConfirmStage(driver(plan(seed=7)))
        confirmation.open()
        again = confirmation.begin()
        assert again is not None
        confirmation.epoch(again.number, report(0.5))
        confirmation.finish(again.number, TrialOutcome("completed" if len(seen) else "diverged"))
        seen.append((again.number, again.settings.seed))
        killed = confirmation.begin()
        assert killed is not None
        assert killed.number == again.number + 1
    assert seen == [(0, 8), (1, 8), (2, 8), (3, 9)]
    assert [trial.state for trial in confirmation.study.trials][4:] == [TrialState.RUNNING, TrialState.WAITING]
    assert (confirmation.total, confirmation.finished, confirmation.remaining) == (6, 4, 1)


def test_more_seeds_and_another_best_leave_what_is_there(driver: Callable[[StudyPlan], SearchStage]) -> None:
    first = plan(confirm={"top": 1, "seeds": 2})
    confirmation = ConfirmStage(search(driver(first), 0.2, 0.5))
    confirmation.open()
    for _ in range(2):  # trial 1 and the defaults with the first seed
        record = confirmation.begin()
        assert record is not None
        confirmation.epoch(record.number, report(0.5))
        confirmation.finish(record.number, TrialOutcome("completed"))
    later = ConfirmStage(search(driver(plan(confirm={"top": 1, "seeds": 3})), 0.9))
    later.open()
    assert {tuple(trial.user_attrs["pair"]): trial.state.name for trial in later.study.trials} == {
        ("dmrnet", 1, 1): "COMPLETE",
        ("dmrnet", 1, 2): "WAITING",
        ("dmrnet", 0, 1): "COMPLETE",
        **{("dmrnet", trial, seed): "WAITING" for trial, seed in ((0, 2), (0, 3), (2, 1), (2, 2), (2, 3))},
    }
    tags = [record["tags"] for record in later.tracker.journal.read_all() if record["op"] == "tags"]
    assert [tag["config"] for tag in tags if "config" in tag] == ["earlier"]
    assert (later.total, later.finished, later.remaining) == (6, 1, 5)
    while (record := later.begin()) is not None:
        later.finish(record.number, TrialOutcome("error"))
    assert later.complete
    assert sum(trial.state == TrialState.WAITING for trial in later.study.trials) == 1


class Locked:
    """A split that nobody may look into; how many samples it has is no secret."""

    def __len__(self) -> int:
        return 1

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"test was read: {name}")


class Quiet(FolderReporter):
    def report(self, report: EpochReport) -> None:
        """Nobody listens."""


def test_a_search_cannot_read_test(driver: Callable[[StudyPlan], SearchStage], tmp_path: Path) -> None:
    whole = plan(train={"epochs": 1}, model={"method": "dropout"})
    locked = replace(whole.dataset, splits={**whole.dataset.splits, "test": Locked()})
    stage = driver(replace(whole, dataset=locked))
    assert set(stage.dataset.splits) == {"train", "val"}
    record = stage.begin()
    assert record is not None
    found = fit(stage.dataset, record.settings, torch.device("cpu"), Quiet(tmp_path, stage.scheduler_metric))
    assert not any(name.startswith("test") for name in (*found.metrics, *found.best_values))
    stage.epoch(record.number, found)
    stage.finish(record.number, TrialOutcome("completed"))
    assert set(ConfirmStage(stage).dataset.splits) == {"train", "val", "test"}


def test_what_is_had_without_modalities_is_told_once(driver: Callable[[StudyPlan], SearchStage]) -> None:
    stage = search(driver(plan()), 0.5)
    for _ in range(2):
        ConfirmStage(stage).open()
    told = [record for record in stage.tracker.journal.read_all() if "without_modalities" in record.get("tags", {})]
    assert [record["key"] for record in told] == ["study"]
    train, test = (stage.plan.dataset.splits[split].targets() for split in ("train", "test"))
    share = (test == np.bincount(train).argmax()).mean()
    assert json.loads(told[0]["tags"]["without_modalities"]) == {"test": pytest.approx(share)}
