"""The database server goes away at every operation, and comes back: each trial is there once, as without that."""

from __future__ import annotations

import logging
import sqlite3
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.exceptions import StorageInternalError
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState
from sqlalchemy.exc import OperationalError

from dmr.studies.stages.search_stage import SearchStage
from dmr.studies.storage.databases import is_outage
from dmr.studies.storage.optuna_attributes import ENDED
from dmr.studies.storage.retry_queue import RetryQueue
from dmr.studies.storage.study_folder import StudyFolder
from dmr.studies.study_file.plan import StudyPlan, make_plan
from dmr.studies.tracking.tracker import Tracker
from dmr.studies.trial_outcomes import TrialOutcome
from dmr.training import EpochReport

EPOCHS, CONCURRENT, OUTAGE = 4, 2, 3
OPERATIONS = ("create_new_trial", "get_all_trials", "get_trial", "get_study_user_attrs", "set_study_user_attr")
OPERATIONS += ("set_trial_param", "set_trial_state_values", "set_trial_intermediate_value")
OPERATIONS += ("set_trial_user_attr", "set_trial_system_attr")


def outage(of: type[BaseException] = ConnectionError) -> StorageInternalError:
    error = StorageInternalError("An exception is raised during the commit.")
    error.__cause__ = OperationalError("SELECT 1", {}, of("connection refused\nis it running?"))
    return error


class Unreliable(InMemoryStorage):
    """Raises at operation `first` and the next ones; the first is done all the same where it is `committed`."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.committed, self.count, self.inside = -1, False, 0, False

    def reached(self, operation: str, *args: Any, **kwargs: Any) -> Any:
        original = getattr(InMemoryStorage, operation)
        if self.inside or self.first < 0:
            return original(self, *args, **kwargs)
        position, self.count = self.count - self.first, self.count + 1
        self.inside = True
        try:
            done = original(self, *args, **kwargs) if position == 0 and self.committed else None
            if 0 <= position < OUTAGE:
                raise outage()
            return done if done is not None else original(self, *args, **kwargs)
        finally:
            self.inside = False


def _operation(name: str) -> Any:
    return lambda self, *args, **kwargs: self.reached(name, *args, **kwargs)


for _name in OPERATIONS:
    setattr(Unreliable, _name, _operation(_name))


@pytest.fixture(autouse=True)
def no_waiting_and_no_mlflow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dmr.studies.storage.retry_queue.RETRY_AFTER", 0.0)
    monkeypatch.setattr(Tracker, "_work", lambda self: None)
    optuna.logging.set_verbosity(optuna.logging.WARNING)


@pytest.fixture(scope="module")
def plan() -> StudyPlan:
    document = {"name": "s", "dataset": {"name": "digits"}, "budget": {"trials": 3}, "sampler": "random"}
    search = {
        "train.learning_rate": {"log_uniform": [1e-4, 1e-1]},
        "sampling.strategy": {"choice": ["uniform", "full"]},
    }
    search["sampling.strategy"] = {"choice": ["uniform", "by_size"]}
    return make_plan(document | {"search": search, "first": ["defaults"]}, "s.yaml")


def report(number: int, epoch: int) -> EpochReport:
    """The better, the later."""
    metrics = {"val/accuracy_mean": 0.1 * number + 0.01 * epoch, "val/accuracy_worst": 0.0, "train/loss": 1.0}
    return EpochReport(epoch, metrics, epoch, metrics, {"val": {"accuracy": [0.5] * 15}})


class Driver:
    """Does what Ray Tune does; the epochs that trials have reached outlive it."""

    def __init__(self, stage: SearchStage, reached: dict[int, int]) -> None:
        self.stage, self.reached = stage, reached

    def step(self) -> bool:
        """One more epoch of each trial that runs; whether the stage has come to its end."""
        stage = self.stage
        while len(stage.live) < CONCURRENT:
            record = stage.begin()
            if record is None:
                break
            if record.number in self.reached:  # goes on from its checkpoint
                stage.epoch(record.number, report(record.number, self.reached[record.number]))
        if not stage.live:
            return stage.retry_queue.error is None
        for number, record in list(stage.live.items()):
            if record.epochs == EPOCHS:
                stage.finish(number, TrialOutcome("completed"))
            else:
                self.reached[number] = record.epochs
                stage.epoch(number, report(number, record.epochs))
        return False

    def run(self) -> None:
        while not self.step():
            pass
        self.stage.close()
        while not self.stage.retry_queue.send():
            pass


def outcome(storage: InMemoryStorage) -> list[tuple[Any, ...]]:
    study = optuna.load_study(study_name="s", storage=storage)
    assert ENDED in study.user_attrs
    return [(t.state, t.params, t.values, t.intermediate_values, t.user_attrs) for t in study.get_trials()]


def search(plan: StudyPlan, folder: Path, storage: InMemoryStorage) -> SearchStage:
    folder.mkdir(exist_ok=True)
    tracker = Tracker(folder / "journal.jsonl", "sqlite://", "0")
    stage = SearchStage(plan, storage, tracker, StudyFolder(folder, "s"), may_exist=True)
    stage.open()
    return stage


def starts(stage: SearchStage) -> list[str]:
    return [record["key"] for record in stage.tracker.journal.read_all() if record["op"] == "start"]


def undisturbed(plan: StudyPlan, folder: Path) -> tuple[list[tuple[Any, ...]], int]:
    """What becomes of a search without an outage, and how many operations that is."""
    storage = Unreliable()
    stage = search(plan, folder, storage)
    storage.first = 10**9
    Driver(stage, {}).run()
    count = storage.count
    found = outcome(storage)
    assert [state for state, *_ in found] == [TrialState.COMPLETE] * 3
    assert all(values.keys() == set(range(EPOCHS)) for *_, values, _ in found)
    return found, count


@pytest.mark.parametrize("committed", [False, True])
def test_an_outage_at_any_operation_changes_nothing(
    plan: StudyPlan, tmp_path: Path, committed: bool, caplog: pytest.LogCaptureFixture
) -> None:
    expected, count = undisturbed(plan, tmp_path / "without")
    assert count > 40
    for first in range(count):
        storage = Unreliable()
        stage = search(plan, tmp_path / str(first), storage)
        storage.first, storage.committed = first, committed
        caplog.clear()
        Driver(stage, {}).run()
        storage.first = -1
        assert outcome(storage) == expected, first
        assert starts(stage) == ["study", "search/0", "search/1", "search/2"]
        warned = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
        assert [line.split(":")[0] for line in warned] == [
            "Optuna's storage cannot be reached",
            "Optuna's storage is back",
        ]


@pytest.mark.parametrize("steps", [0, 3])
def test_a_driver_killed_in_an_outage_is_resumed_exactly(plan: StudyPlan, tmp_path: Path, steps: int) -> None:
    """Killed so many steps after the server went away at any operation."""
    expected, count = undisturbed(plan, tmp_path / "without")
    for first in range(0, count, 3):
        storage, reached = Unreliable(), {}
        stage = search(plan, tmp_path / str(first), storage)
        driver = Driver(stage, reached)
        storage.first = 10**9
        while storage.count < first and not driver.step():
            pass
        storage.first = storage.count
        stage.retry_queue._wait = 3600.0
        for _ in range(1 + steps):
            driver.step()
        storage.first = -1
        stage.tracker.close(timeout=0.0)
        Driver(search(plan, tmp_path / str(first), storage), reached).run()
        assert outcome(storage) == expected, first


@pytest.mark.parametrize("position", range(6))
def test_a_time_budget_that_ends_in_an_outage_ends_also_a_trial_nobody_knew_of(
    plan: StudyPlan, tmp_path: Path, position: int
) -> None:
    storage = Unreliable()
    stage = search(plan, tmp_path, storage)
    driver = Driver(stage, {})
    storage.first = 10**9
    driver.step()
    storage.first, storage.committed = storage.count + position, True
    stage.begin()
    while not stage.end_all(TrialOutcome("time_budget")):
        pass
    storage.first = -1
    states = [trial.state for trial in stage.study.get_trials()]
    assert states[:2] == [TrialState.PRUNED] * 2
    assert set(states[2:]) <= {TrialState.FAIL, TrialState.WAITING}
    assert stage.remaining == 3 - stage.finished


def test_what_no_outage_is_goes_through() -> None:
    retry_queue = RetryQueue()

    def write() -> None:
        raise outage(sqlite3.OperationalError)

    with pytest.raises(StorageInternalError, match="during the commit"):
        retry_queue.put(write)
    assert retry_queue.error is None
    assert is_outage(outage())
    assert not is_outage(ValueError("no"))


def test_writes_wait_in_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    now, away, written = 0.0, True, []
    monkeypatch.setattr("dmr.studies.storage.retry_queue.time.monotonic", lambda: now)

    def write(number: int) -> None:
        if away:
            raise outage()
        written.append(number)

    retry_queue = RetryQueue()
    retry_queue._wait = 0.5
    retry_queue.put(lambda: write(1))
    assert retry_queue.error == "connection refused"
    retry_queue.put(lambda: write(2))
    away = False
    assert not retry_queue.send()  # not tried again yet
    now = 0.6
    assert retry_queue.send()
    assert written == [1, 2]
    assert retry_queue.error is None
