"""The journal and MLflow: everything is there exactly once, whatever was sent twice or failed half-way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking import MlflowClient

from studies.journal import Journal
from studies.mlflow_store import open_store
from studies.tracking import Tracker


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A store's URI and an experiment's id."""
    uri = f"sqlite:///{tmp_path_factory.mktemp('store') / 'mlflow.db'}"
    return uri, open_store(uri, "e")


def record(tracker: Tracker) -> None:
    """A study with one trial of three epochs, which fails to be finite in the last."""
    tracker.start("study", name="s", tags={"stage": "study"}, params={"seed": 0})
    tracker.start("search/0", name="s-0", tags={"stage": "search"}, params={"a": 0.1}, parent="study")
    for epoch in range(3):
        values = {"loss": 1.0 / (epoch + 1), "accuracy": float("nan") if epoch == 2 else 0.5}
        tracker.metrics("search/0", values, step=epoch)
        tracker.metrics("search/0", values, step=epoch)
    tracker.tags("search/0", {"stop_reason": "diverged"})
    tracker.end("search/0", "FAILED")


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


def test_what_is_recorded_twice_is_there_once(store: tuple[str, str], tmp_path: Path) -> None:
    tracker = Tracker(tmp_path / "journal.jsonl", *store)
    record(tracker)
    assert tracker.close(timeout=30.0)
    check(store, tracker)


def test_a_journal_without_its_offset_is_sent_again_and_changes_nothing(store: tuple[str, str], tmp_path: Path) -> None:
    tracker = Tracker(tmp_path / "journal.jsonl", *store)
    record(tracker)
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
    record(tracker)
    assert tracker.close(timeout=30.0)
    assert len(failures) == 2
    check(store, tracker)


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
