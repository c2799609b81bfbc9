"""The journal and MLflow: everything is there exactly once, whatever was sent twice or failed half-way."""

from __future__ import annotations

import shutil
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest
from mlflow.entities import LoggedModel
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import ENDPOINT_NOT_FOUND
from mlflow.tracking import MlflowClient

from dmr.studies.errors import StudyError
from dmr.studies.storage.mlflow_store import check_database, delete_runs, open_mlflow
from dmr.studies.tracking import journal as journal_module
from dmr.studies.tracking.journal import Journal
from dmr.studies.tracking.tracker import Tracker

TRAIN, VAL = (
    {"name": "d", "digest": digest, "source_type": "code", "source": "{}", "schema": "{}", "profile": "{}"}
    | {"context": context}
    for digest, context in (("1", "train"), ("2", "val"))
)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A store's URI and an experiment's id."""
    uri = f"sqlite:///{tmp_path_factory.mktemp('store') / 'mlflow.db'}"
    return uri, open_mlflow(uri, "e")


@pytest.fixture
def lost(store: tuple[str, str], tmp_path: Path) -> tuple[str, str]:
    """A store of the test's own: `lose` takes its runs away."""
    MlflowClient(store[0]).search_experiments()
    for name in ("own.db", "unused.db"):
        with sqlite3.connect(store[0].removeprefix("sqlite:///")) as source, sqlite3.connect(tmp_path / name) as own:
            source.backup(own)
            own.executescript("".join(f"DELETE FROM {table};" for table in EMPTIED))
    return f"sqlite:///{tmp_path / 'own.db'}", store[1]


EMPTIED = (
    *("logged_model_metrics", "logged_model_params", "logged_model_tags", "logged_models"),
    *("input_tags", "inputs", "datasets", "params", "tags", "latest_metrics", "metrics", "runs"),
)


def lose(path: Path, *more: str) -> None:
    """Make the store one that has no runs."""
    with sqlite3.connect(path / "unused.db") as unused, sqlite3.connect(path / "own.db") as own:
        for statement in more:
            unused.execute(statement)
        unused.commit()
        unused.backup(own)


def points(store: tuple[str, str], tracker: Tracker) -> tuple[int, list[tuple[int, int]]]:
    """When a trial began, and its epochs with their times."""
    client, run_id = MlflowClient(store[0]), str(tracker.run_id("search/0"))
    history = client.get_metric_history(run_id, "loss")
    return client.get_run(run_id).info.start_time, [(point.step, point.timestamp) for point in history]


def record(tracker: Tracker, files: Path) -> None:
    """A study with one trial of three epochs, not finite in the last, and a model of the study that has files."""
    tracker.start("study", name="s", tags={"stage": "study"}, params={"seed": 0})
    tracker.start("search/0", name="s-0", tags={"stage": "search"}, params={"a": 0.1}, parent="study")
    for _ in range(2):
        tracker.inputs("search/0", [TRAIN, VAL])
    for epoch in range(3):
        values = {"loss": 1.0 / (epoch + 1), "accuracy": float("nan") if epoch == 2 else 0.5}
        tracker.metrics("search/0", values, step=epoch)
        tracker.metrics("search/0", values, step=epoch)
    for _ in range(2):
        tracker.model("search/0", "search/0", name="s.0", tags={"checkpoint": "best.pt"}, params={"a": 0.1})
        tracker.metrics("search/0", {"best/accuracy": 0.5}, step=0, model="search/0")
    tracker.tags("search/0", {"stop_reason": "diverged"})
    tracker.end("search/0", "FAILED")
    files.mkdir(exist_ok=True)
    (files / "MLmodel").write_text("flavors: {}")
    tracker.model("study", "winner", name="w", tags={}, params={}, path=files)


def check(store: tuple[str, str], tracker: Tracker) -> None:
    uri, experiment = store
    client = MlflowClient(uri)
    runs = client.search_runs([experiment], f"tags.`dmr.key` LIKE '{tracker.journal.id}/%'")
    assert len(runs) == 2
    (child,) = [run for run in runs if run.data.tags["stage"] == "search"]
    (parent,) = [run for run in runs if run.data.tags["stage"] == "study"]
    assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert child.info.status == "FAILED"
    assert child.data.params == {"a": "0.1"}
    points = {name: client.get_metric_history(child.info.run_id, name) for name in child.data.metrics}
    assert [(p.step, p.value) for p in points["loss"]] == [(0, 1.0), (1, 0.5), (2, 1 / 3)]
    assert [p.step for p in points["accuracy"]] == [0, 1]
    assert [(p.step, p.value) for p in points["diverged"]] == [(2, 1.0)]
    inputs = child.inputs.dataset_inputs
    assert sorted((i.dataset.digest, i.tags[0].value) for i in inputs) == [("1", "train"), ("2", "val")]
    stub, winner = models(store, tracker)
    assert (stub.name, stub.params, stub.source_run_id) == ("s-0", {"a": "0.1"}, child.info.run_id)
    assert [(metric.key, metric.value) for metric in stub.metrics or ()] == [("best/accuracy", 0.5)]
    assert [output.model_id for output in child.outputs.model_outputs] == [stub.model_id]
    assert [output.model_id for output in parent.outputs.model_outputs] == [winner.model_id]
    assert [Path(file.path).name for file in client.list_logged_model_artifacts(winner.model_id)] == ["MLmodel"]
    assert {model.status.name for model in (stub, winner)} == {"READY"}


def models(store: tuple[str, str], tracker: Tracker) -> list[LoggedModel]:
    wanted = f"tags.`dmr.key` LIKE '{tracker.journal.id}/%'"
    found = MlflowClient(store[0]).search_logged_models([store[1]], wanted)
    return sorted(found, key=lambda model: model.tags["dmr.key"])


def test_what_is_recorded_twice_is_there_once(store: tuple[str, str], tmp_path: Path) -> None:
    tracker = Tracker(tmp_path / "journal.jsonl", *store)
    record(tracker, tmp_path / "files")
    assert tracker.close(timeout=30.0)
    check(store, tracker)


def test_a_run_that_goes_on_keeps_the_parameters_it_began_with(
    store: tuple[str, str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """MLflow takes none that differ, such as the path of data that have moved."""
    for path in ("before", "after"):
        tracker = Tracker(tmp_path / "journal.jsonl", *store)
        tracker.start("search/0", name="s-0", tags={}, params={"dataset.path": path, "a": 1})
        assert tracker.close(timeout=30.0)
    run = MlflowClient(store[0]).get_run(str(tracker.run_id("search/0")))
    assert run.data.params == {"dataset.path": "before", "a": "1"}
    assert caplog.text == ""


def test_a_journal_without_its_offset_is_sent_again_and_changes_nothing(store: tuple[str, str], tmp_path: Path) -> None:
    tracker = Tracker(tmp_path / "journal.jsonl", *store)
    record(tracker, tmp_path / "files")
    assert tracker.close(timeout=30.0)
    (tmp_path / "journal.shipped").unlink()
    again = Tracker(tmp_path / "journal.jsonl", *store)
    assert again.close(timeout=30.0)
    check(store, again)


def test_a_run_the_server_made_although_the_call_failed_is_found_again(
    store: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, failures = MlflowClient.create_run, []

    def made_but_not_answered(self: MlflowClient, *args: Any, **kwargs: Any) -> Any:
        run = real(self, *args, **kwargs)
        if len(failures) < 2:
            failures.append(run.info.run_id)
            raise ConnectionError("timed out")
        return run

    monkeypatch.setattr(MlflowClient, "create_run", made_but_not_answered)
    tracker = Tracker(tmp_path / "journal.jsonl", *store)
    record(tracker, tmp_path / "files")
    assert tracker.close(timeout=30.0)
    assert len(failures) == 2
    check(store, tracker)


@pytest.mark.parametrize("call", ["create_logged_model", "log_outputs", "log_model_artifacts", "finalize_logged_model"])
def test_a_study_killed_before_a_model_was_whole_in_mlflow_has_it_once(
    store: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    real = getattr(MlflowClient, call)

    def made_but_not_answered(*args: Any, **kwargs: Any) -> None:
        real(*args, **kwargs)
        raise ConnectionError("timed out")

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, call, made_but_not_answered)
        killed = Tracker(tmp_path / "journal.jsonl", *store)
        record(killed, tmp_path / "files")
        assert not killed.close(timeout=1.0)
    again = Tracker(tmp_path / "journal.jsonl", *store)
    assert again.close(timeout=30.0)
    check(store, again)


def test_a_server_that_knows_no_models_gets_everything_else(
    store: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(*_: Any, **__: Any) -> None:
        raise MlflowException("not found", ENDPOINT_NOT_FOUND)

    monkeypatch.setattr(MlflowClient, "create_logged_model", unknown)
    tracker = Tracker(tmp_path / "journal.jsonl", *store)
    record(tracker, tmp_path / "files")
    assert tracker.close(timeout=30.0)
    assert models(store, tracker) == []
    run = MlflowClient(store[0]).get_run(str(tracker.run_id("search/0")))
    assert (run.info.status, run.data.metrics["best/accuracy"]) == ("FAILED", 0.5)


def test_the_models_of_a_study_are_deleted_with_it(store: tuple[str, str], tmp_path: Path) -> None:
    kept, deleted = (Tracker(tmp_path / f"{name}.jsonl", *store) for name in ("kept", "deleted"))
    for tracker in (kept, deleted):
        record(tracker, tmp_path / "files")
        assert tracker.close(timeout=30.0)
    delete_runs(store[0], "e", deleted.journal.id)
    assert models(store, deleted) == []
    check(store, kept)


def test_the_journal_of_an_earlier_version_goes_on(store: tuple[str, str], tmp_path: Path) -> None:
    """It has neither inputs nor models, and was shipped in part."""
    journal = Journal(tmp_path / "journal.jsonl")
    start = {"op": "start", "name": "s", "params": {}, "t": 1, "tags": {"stage": "study"}}
    journal.append(start | {"key": "study", "parent": None})
    journal.append(start | {"key": "search/0", "parent": "study", "tags": {"stage": "search"}, "params": {"a": "0.1"}})
    journal.append(
        {
            "op": "metrics",
            "key": "search/0",
            "step": 0,
            "group": "loss",
            "values": {"loss": 1.0, "accuracy": 0.5},
            "t": 2,
        }
    )
    journal.close()
    tracker = Tracker(tmp_path / "journal.jsonl", *store)
    record(tracker, tmp_path / "files")
    assert tracker.close(timeout=30.0)
    check(store, tracker)


def test_a_store_that_does_not_answer_is_one_line() -> None:
    shown = r"^MLflow store postgresql://me:\*\*\*@127.0.0.1:1/db: cannot be used: .+"
    with pytest.raises(StudyError, match=shown):
        check_database("postgresql://me:secret@127.0.0.1:1/db")


def test_a_line_torn_by_a_kill_is_cut_off(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    journal.append({"op": "tags", "key": "a", "tags": {}})
    journal.close()
    whole = (tmp_path / "journal.jsonl").read_bytes()
    (tmp_path / "journal.jsonl").write_bytes(whole + b'{"op": "metrics", "key"')
    again = Journal(tmp_path / "journal.jsonl")
    again.append({"op": "end", "key": "a", "status": "FINISHED"})
    assert [r["op"] for r in again.read_all()] == ["journal", "tags", "end"]
    assert again.id == journal.id
    again.close()


@pytest.mark.parametrize("more", [(), ("DELETE FROM experiment_tags", "DELETE FROM experiments")])
def test_a_store_that_has_lost_the_runs_gets_them_from_the_journal(
    lost: tuple[str, str], tmp_path: Path, more: tuple[str, ...]
) -> None:
    tracker = Tracker(tmp_path / "journal.jsonl", *lost)
    record(tracker, tmp_path / "files")
    assert tracker.close(timeout=30.0)
    before, run_id = points(lost, tracker), tracker.run_id("search/0")
    lose(tmp_path, *more)
    for _ in range(2):
        lost = (lost[0], open_mlflow(lost[0], "e"))
        again = Tracker(tmp_path / "journal.jsonl", *lost)
        record(again, tmp_path / "files")
        assert again.close(timeout=30.0)
        check(lost, again)
        assert points(lost, again) == before
        assert again.run_id("search/0") != run_id
    assert again.notes == []


@pytest.mark.parametrize("killed_at", ["store", "run", "model_id"])
def test_a_driver_killed_while_it_writes_runs_again_leaves_each_of_them_once(
    lost: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed_at: str
) -> None:
    tracker = Tracker(tmp_path / "journal.jsonl", *lost)
    record(tracker, tmp_path / "files")
    assert tracker.close(timeout=30.0)
    lose(tmp_path)
    real = Journal.append

    def killed(self: Journal, one: dict[str, Any], durable: bool = False) -> None:
        if one["op"] == killed_at:
            raise RuntimeError("killed")
        real(self, one, durable)

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "append", killed)
        dying = Tracker(tmp_path / "journal.jsonl", *lost)
        dying.tags("study", {})
        assert not dying.close(timeout=1.0)
        assert dying.run_id("search/0") != tracker.run_id("search/0") or killed_at == "store"
    again = Tracker(tmp_path / "journal.jsonl", *lost)
    record(again, tmp_path / "files")
    assert again.close(timeout=30.0)
    check(lost, again)


@pytest.mark.parametrize("table", ["all", "search/0", "study"])
def test_runs_that_go_while_the_driver_runs_are_written_again(
    lost: tuple[str, str], tmp_path: Path, table: str
) -> None:
    tracker = Tracker(tmp_path / "journal.jsonl", *lost)
    record(tracker, tmp_path / "files")
    assert tracker.flush(timeout=30.0)
    if table == "all":
        lose(tmp_path)
    else:  # as `mlflow gc` does
        client: Any = MlflowClient(lost[0])
        client.delete_run(tracker.run_id(table))
        client._tracking_client.store._hard_delete_run(tracker.run_id(table))
        for model in models(lost, tracker):
            if model.tags["dmr.key"].endswith("winner" if table == "study" else table):
                client.delete_logged_model(model.model_id)
                client._tracking_client.store._hard_delete_logged_model(model.model_id)
    tracker.tags("study" if table == "all" else table, {"more": "1"})
    assert tracker.close(timeout=30.0)
    check(lost, tracker)
    assert [line for line in tracker.notes if "had lost runs" in line] == tracker.notes != []


def test_nothing_is_written_to_a_file_that_was_deleted(lost: tuple[str, str], tmp_path: Path) -> None:
    tracker = Tracker(tmp_path / "journal.jsonl", *lost)
    record(tracker, tmp_path / "files")
    assert tracker.flush(timeout=30.0)
    shutil.move(tmp_path / "own.db", tmp_path / "away.db")
    tracker.tags("search/0", {"more": "1"})
    assert not tracker.close(timeout=1.0)
    assert tracker.error == "the store's file was deleted or replaced"
    shutil.move(tmp_path / "away.db", tmp_path / "own.db")
    again = Tracker(tmp_path / "journal.jsonl", *lost)
    assert again.close(timeout=30.0)
    check(lost, again)
    assert MlflowClient(lost[0]).get_run(str(again.run_id("search/0"))).data.tags["more"] == "1"


def test_a_model_whose_folder_has_another_ones_files_by_now_has_none(store: tuple[str, str], tmp_path: Path) -> None:
    tracker = Tracker(tmp_path / "journal.jsonl", *store)
    tracker.start("study", name="s", tags={}, params={})
    assert tracker.flush(timeout=30.0)
    (tmp_path / "files").mkdir()
    (tmp_path / "files/MLmodel").write_text("flavors: {}")
    monitor = Journal(tmp_path / "other.jsonl")
    for model in ("earlier", "later"):
        fields = {"op": "model", "key": "study", "model": model, "name": model, "tags": {}, "params": {}, "t": 1}
        monitor.append(fields | {"path": str(tmp_path / "files")})
    lines = (tmp_path / "other.jsonl").read_bytes().splitlines(keepends=True)[1:]
    assert tracker.close(timeout=30.0)
    with open(tmp_path / "journal.jsonl", "ab") as file:
        file.writelines(lines)
    again = Tracker(tmp_path / "journal.jsonl", *store)
    again.tags("study", {})
    assert again.close(timeout=30.0)
    client = MlflowClient(store[0])
    files = {
        m.tags["dmr.key"].split("/")[1]: client.list_logged_model_artifacts(m.model_id) for m in models(store, again)
    }
    assert {name: len(found) for name, found in files.items()} == {"earlier": 0, "later": 1}


def test_a_flush_waits_as_long_as_records_arrive(
    store: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "READ_AT_ONCE", 1)
    tracker = Tracker(tmp_path / "journal.jsonl", *store)
    record(tracker, tmp_path / "files")
    real = Tracker._ship

    def slow(self: Tracker) -> None:
        time.sleep(0.6)
        real(self)

    monkeypatch.setattr(Tracker, "_ship", slow)
    assert tracker.close(timeout=4.0)
    check(store, tracker)


def test_the_time_between_two_drivers_is_not_a_trials(store: tuple[str, str], tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    start = {"op": "start", "key": "search/0", "name": "s", "params": {}, "tags": {}, "parent": None}
    metrics = {"op": "metrics", "key": "search/0", "group": "loss", "values": {"loss": 1.0}}
    for record in (
        start | {"t": 1_000},
        metrics | {"step": 0, "t": 3_000},
        start | {"t": 60_000},
        metrics | {"step": 1, "t": 60_500},
        {"op": "end", "key": "search/0", "status": "FINISHED", "t": 61_000},
        {"op": "tags", "key": "search/0", "tags": {"config": "earlier"}, "t": 90_000},
    ):
        journal.append(record)
    journal.close()
    tracker = Tracker(tmp_path / "journal.jsonl", *store)
    assert tracker.seconds("search/0") == 3.0
    assert tracker.close(timeout=30.0)


def test_a_damaged_line_is_named_and_the_file_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    for line in (b'{"op":"sta', b"3", b"\xff\xfe", b"{}"):
        path.write_bytes(before := b'{"op":"journal","id":"j"}\r\n' + line + b'\n{"op":"end","key":"k"}\n')
        journal = Journal(path)  # a break of Windows does no harm
        assert journal.id == "j"
        with pytest.raises(StudyError, match=r"journal\.jsonl, line 2: no record: the file is damaged"):
            list(journal.read_all())
        journal.close()
        assert path.read_bytes() == before


def test_a_journal_is_begun_with_its_first_record(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    assert journal.path.read_bytes() == b""
    journal.append({"op": "end", "key": "k"})
    assert [record.get("id") for record in journal.read_all()] == [journal.id, None]
    journal.close()


@pytest.mark.parametrize("offset", ["-5", "1", "999999", "x"])
def test_an_offset_that_is_not_of_this_journal_sends_all_of_it(
    store: tuple[str, str], tmp_path: Path, offset: str
) -> None:
    (tmp_path / "journal.jsonl").write_text('{"op":"journal","id":"j"}\n')
    (tmp_path / "journal.shipped").write_text(offset)
    tracker = Tracker(tmp_path / "journal.jsonl", *store)
    assert tracker.pending == tracker.journal.end
    tracker.close(timeout=10.0)
