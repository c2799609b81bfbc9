"""A study in object storage whose driver, and the trials with it, die between any two writes, with their disk."""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from mlflow.tracking import MlflowClient
from optuna.trial import TrialState

from dmr.direction import Direction
from dmr.files import write_text
from dmr.object_storage import store as store_module
from dmr.object_storage import writer as writer_module
from dmr.object_storage.lease import KEY, parse_holder
from dmr.object_storage.store import ObjectStore, StoreAway
from dmr.studies.stages import trial_checkpoints
from dmr.studies.stages.search_stage import SearchStage
from dmr.studies.storage.locations import StoreUris
from dmr.studies.storage.mlflow_store import open_mlflow
from dmr.studies.storage.optuna_storage import load_search, open_log
from dmr.studies.storage.study_folder import StudyFolder
from dmr.studies.storage.trial_files import StartFrom, checkpoint_objects, newest_checkpoints
from dmr.studies.study_file.plan import StudyPlan, make_plan
from dmr.studies.tracking.tracker import Tracker
from dmr.studies.trial_outcomes import TrialOutcome
from dmr.studies.workers.checkpoint_reporter import FolderReporter
from dmr.studies.workers.checkpoint_uploads import CheckpointUploads
from dmr.studies.yaml_io import to_yaml
from dmr.training import EpochReport

TRIALS, EPOCHS = 2, 4
METRICS = {"val/accuracy_mean": 0.5, "val/accuracy_worst": 0.25, "train/loss": 1.0}
WRITES = ("write", "create", "replace", "upload", "delete")

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")


class Died(BaseException):
    """The machine is gone."""


class Deaths:
    """Lets this process die at its n-th write, before or after the store has it: no thread reads or writes any more."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left, self.after, self.dead = 10**9, False, False
        for name in (*WRITES, "read", "has", "entries", "download"):
            monkeypatch.setattr(ObjectStore, name, self._counted(getattr(ObjectStore, name), name in WRITES))

    def arm(self, left: int, after: bool = False) -> None:
        self.left, self.after, self.dead = left, after, False

    def check(self) -> None:
        if self.dead:
            raise Died

    def _counted(self, call: Any, writes: bool) -> Any:
        def counted(store: ObjectStore, *arguments: Any) -> Any:
            self.check()
            self.left -= writes
            if writes and self.left < 0 and not self.after:
                self.dead = True
            self.check()
            answer = call(store, *arguments)
            if writes and self.left < 0:
                self.dead = True
            self.check()
            return answer

        return counted


class Silent(FolderReporter):
    def report(self, report: EpochReport) -> None:
        """Nobody listens."""


def report(epoch: int) -> EpochReport:
    """The best epoch is the second."""
    best = min(epoch, 1)
    return EpochReport(epoch, METRICS, best, METRICS, {"val": {"accuracy": [0.5] * 15}})


@pytest.fixture
def plan() -> StudyPlan:
    document = {"name": "s", "dataset": {"name": "digits"}, "budget": {"trials": TRIALS}, "train": {"epochs": EPOCHS}}
    return make_plan(document | {"scheduler": {"name": "none"}}, "s.yaml")


class Machine:
    """Drives the study and trains its trials, on a disk of its own."""

    def __init__(self, plan: StudyPlan, url: str, tmp_path: Path, deaths: Deaths) -> None:
        self.plan, self.url, self.deaths = plan, url, deaths
        self.cache, self.uri = tmp_path / "cache", f"sqlite:///{tmp_path / 'mlflow.db'}"
        self.experiment = ""
        self.trained: list[tuple[int, int]] = []

    def folder(self) -> StudyFolder:
        os.environ["DMR_CACHE"] = str(self.cache)
        return StudyFolder.open(self.url, "s")

    def drive(self) -> None:
        """Raises:
        Died: as `deaths` says; then nothing that it had on its disk is left.
        """
        try:
            folder = self.folder()
            with folder.held():
                tracker = Tracker(folder.journal, self.uri, open_mlflow(self.uri, self.experiment), folder.writer)
                try:
                    self._train(folder, tracker)
                finally:
                    tracker.close(timeout=0.0 if self.deaths.dead else 30.0)
            self.deaths.check()
        except Died:
            shutil.rmtree(self.cache)
            self.deaths.arm(10**9)
            store = ObjectStore(f"{self.url}/s")
            if (found := store.read(KEY)) is not None:  # of a process of this number, which lives
                store.write(KEY, parse_holder(found.data)._replace(expires=0.0).encode())
            raise

    def _train(self, folder: StudyFolder, tracker: Tracker) -> None:
        storage = open_log(folder.journal, tracker.journal.append)
        stage = SearchStage(self.plan, storage, tracker, folder, may_exist=True)
        folder.remember(StoreUris(self.uri, folder.optuna_url))
        write_text(folder.study_file, to_yaml(self.plan.document))
        folder.keep(folder.study_file)
        stage.open()
        while (record := stage.begin()) is not None:
            run, objects = folder.run("search", record.number), folder.objects
            assert objects is not None
            assert record.start is not None
            uploads = CheckpointUploads(objects.store_of(run), run, record.start)
            reporter = Silent(run, ("val/accuracy_mean", Direction.MAX), None, uploads)
            state = reporter.load()
            if state is not None:
                stage.epoch(record.number, EpochReport(**state["report"]), {}, uploads.uploaded())
            for epoch in range(0 if state is None else state["report"]["epoch"] + 1, EPOCHS):
                self.deaths.check()
                self.trained.append((record.number, epoch))
                content = {"report": asdict(report(epoch)), "network": {"epoch": epoch}, "diagnosed": []}
                reporter.save(content, epoch == report(epoch).best_epoch)
                stage.epoch(record.number, report(epoch), {}, uploads.uploaded())
                time.sleep(0.03)
            reporter.end()
            self.deaths.check()
            stage.finish(record.number, TrialOutcome("completed"))
        stage.close()
        tracker.end("study", "FINISHED")
        assert folder.writer is not None
        assert folder.writer.flush() or self.deaths.dead
        self.deaths.check()


@pytest.fixture
def machine(
    plan: StudyPlan, s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Machine:
    monkeypatch.setenv("DMR_CACHE", "")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(writer_module, "COMMIT_EVERY", 0.01)
    monkeypatch.setattr(writer_module, "BEFORE_CLOSING", 5.0)
    return Machine(plan, f"s3://{s3.bucket}/runs", tmp_path, Deaths(monkeypatch))


def assert_exact(machine: Machine) -> None:
    trials = load_search(machine.folder()).get_trials()
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * TRIALS
    assert [sorted(trial.intermediate_values) for trial in trials] == [list(range(EPOCHS))] * TRIALS
    client = MlflowClient(machine.uri)
    experiment = client.get_experiment_by_name(machine.experiment)
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], "tags.stage = 'search'")
    assert sorted(run.data.tags["trial"] for run in runs) == ["0", "1"]
    for run in runs:
        assert run.info.status == "FINISHED"
        points = client.get_metric_history(run.info.run_id, "train/loss")
        assert sorted(point.step for point in points) == list(range(EPOCHS))
        assert "combinations.csv" in {file.path for file in client.list_artifacts(run.info.run_id)}
    store = ObjectStore(f"{machine.url}/s")
    checkpoints = [entry.key for entry in store.entries("trials") if entry.key.endswith(".pt")]
    assert [key.rpartition("-")[2] for key in checkpoints] == ["000001.pt"] * TRIALS, checkpoints


@pytest.mark.slow
@pytest.mark.parametrize("after", [False, pytest.param(True, marks=pytest.mark.long)], ids=["before", "after"])
def test_a_machine_that_is_lost_between_any_two_writes_costs_at_most_what_was_on_its_way(
    machine: Machine, after: bool
) -> None:
    deaths, url = machine.deaths, machine.url
    for left in range(10**3):
        machine.url, machine.experiment, machine.trained = f"{url}/{left}", str(left), []
        deaths.arm(left, after)
        try:
            machine.drive()
        except Died:
            machine.drive()
        else:
            break
        assert_exact(machine)
        assert len(machine.trained) <= TRIALS * EPOCHS + EPOCHS
    assert left > 20
    assert_exact(machine)


def test_checkpoints_are_waited_for_where_the_store_is_away(s3: Any, tmp_path: Path, monkeypatch: Any) -> None:
    store = ObjectStore(f"s3://{s3.bucket}/runs/s")
    monkeypatch.setattr(store_module, "TRY_AGAIN_AFTER", 0.0)
    answers = [StoreAway("away"), StoreAway("away"), False]
    has = ObjectStore.has

    def answered(self: ObjectStore, key: str) -> bool:
        answer = answers.pop(0) if answers else has(self, key)
        if isinstance(answer, StoreAway):
            raise answer
        return answer

    monkeypatch.setattr(ObjectStore, "has", answered)
    for name in ("best-000003-000001.pt", "last-000003-000002.pt"):
        store.write(f"trials/0007/{name}", b"")
    checkpoints = trial_checkpoints.TrialObjects(
        lambda number: tmp_path / f"trials/{number:04d}",
        SimpleNamespace(store=store, folder=tmp_path, lease=SimpleNamespace(number=3)),  # type: ignore[arg-type]
    )
    assert checkpoints.begin(7, None, 0) == StartFrom(3, None)
    checkpoints.wait_for(7, report(2))
    assert answers == []
    assert checkpoints.chosen(7, 1) == f"{store.url}/trials/0007/best-000003-000001.pt"


@pytest.mark.parametrize(
    ("epochs", "expected"),
    [
        (0, []),
        (1, ["last-000002-000001.pt", "best-000002-000001.pt"]),
        (2, ["last-000002-000002.pt", "best-000002-000001.pt"]),
    ],
)
def test_a_run_goes_on_from_what_the_log_has_epochs_for(epochs: int, expected: list[str]) -> None:
    """At most one epoch more: that is reported again. Of objects of another lease none is its own."""
    names = ["best-000002-000001.pt", "last-000002-000001.pt", "last-000002-000002.pt", "last-000001-000009.pt"]
    found = checkpoint_objects([*names, "diagnostics.csv"])
    chosen = [one.name for one in newest_checkpoints(found, 2, epochs)]
    assert chosen == expected
    assert newest_checkpoints(found, 1, 10) == [], "its best one is not there"


def test_a_run_that_was_stopped_leaves_no_copies_on_its_machine(s3: Any, tmp_path: Path) -> None:
    """Nobody waits for its last uploads, and the driver removes only what lies on its own machine."""
    store = ObjectStore(f"s3://{s3.bucket}/runs/s/trials/0000")
    uploads = CheckpointUploads(store, tmp_path, StartFrom(1, None))
    reporter = Silent(tmp_path, ("val/accuracy_mean", Direction.MAX), None, uploads)
    reporter.save({"report": asdict(report(0)), "network": {}, "diagnosed": []}, is_best=True)
    uploads.end()
    until = time.monotonic() + 10
    while list(tmp_path.iterdir()) and time.monotonic() < until:
        time.sleep(0.01)
    assert list(tmp_path.iterdir()) == []
    assert [entry.key for entry in store.entries()] == ["best-000001-000000.pt", "last-000001-000000.pt"]
