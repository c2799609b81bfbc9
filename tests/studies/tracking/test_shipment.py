"""What MLflow refuses for good is named and left out alone; what people deleted there takes nothing else along."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking import MlflowClient

from dmr.studies.storage.mlflow_store import open_mlflow
from dmr.studies.tracking.tracker import Tracker

LONG = "x" * 251  # MLflow takes names of 250 letters
INPUT = {"digest": "1", "source_type": "code", "source": "{}", "schema": "{}", "profile": "{}", "context": "train"}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A store's URI and an experiment's id."""
    uri = f"sqlite:///{tmp_path_factory.mktemp('store') / 'mlflow.db'}"
    return uri, open_mlflow(uri, "e")


def begin(store: tuple[str, str], folder: Path) -> Tracker:
    """A study with two trials."""
    tracker = Tracker(folder / "journal.jsonl", *store)
    tracker.start("study", name="s", tags={"stage": "study"}, params={"seed": 0})
    for number in range(2):
        tracker.start(f"search/{number}", name="s", tags={}, params={"a": 1, LONG: 2, "b": 3}, parent="study")
    return tracker


def stored(store: tuple[str, str], tracker: Tracker, key: str) -> Any:
    return MlflowClient(store[0]).get_run(str(tracker.run_id(key)))


def test_what_is_refused_is_named_once_and_takes_nothing_along(store: tuple[str, str], tmp_path: Path) -> None:
    tracker = begin(store, tmp_path)
    for number in range(2):
        key = f"search/{number}"
        for epoch in range(20):
            values = {f"m{n}": float(n) for n in range(40)}
            tracker.metrics(key, {f"{LONG}y": 1.0, **values, LONG: 1.0}, step=epoch)
        tracker.tags(key, {"before": "1", LONG: "2", "after": "3"})
        tracker.inputs(key, [{"name": "d", **INPUT}, {"name": LONG * 2, **INPUT}, {"name": "e", **INPUT}])
        tracker.end(key, "FINISHED")
    assert tracker.close(timeout=60.0)
    client = MlflowClient(store[0])
    for number in range(2):
        run = stored(store, tracker, f"search/{number}")
        assert set(run.data.metrics) == {f"m{n}" for n in range(40)}
        history = client.get_metric_history(run.info.run_id, "m39")
        assert [point.step for point in history] == list(range(20))
        assert {"before", "after"} <= set(run.data.tags)
        assert run.data.params == {"a": "1", "b": "3"}
        assert {found.dataset.name for found in run.inputs.dataset_inputs} == {"d", "e"}
        assert run.info.status == "FINISHED"
    assert tracker.refused == 5
    named = sorted(line.split(": MLflow refuses its ")[1].split(" ")[0] for line in tracker.notes)
    assert named == ["input", "metric", "metric", "parameter", "tag"]
    assert all(line.startswith("search/0: ") for line in tracker.notes)
    assert any("exceeds" in line for line in tracker.notes)
    again = Tracker(tmp_path / "journal.jsonl", *store)
    assert (again.refused, again.notes) == (5, tracker.notes)
    assert again.close(timeout=30.0)


def test_a_full_batch_of_metrics_has_room_for_tags(store: tuple[str, str], tmp_path: Path) -> None:
    tracker = begin(store, tmp_path)
    tracker.metrics("search/0", {f"m{n}": 1.0 for n in range(1_000)}, step=0)
    tracker.tags("search/0", {f"t{n}": "1" for n in range(101)})
    assert tracker.close(timeout=30.0)
    data = stored(store, tracker, "search/0").data
    assert len(data.metrics) == 1_000
    assert sum(name.startswith("t") and name[1:].isdecimal() for name in data.tags) == 101
    assert not any("refuses its metric" in line for line in tracker.notes)


def test_a_trial_deleted_in_mlflow_is_one_line_and_the_others_go_on(store: tuple[str, str], tmp_path: Path) -> None:
    tracker = begin(store, tmp_path)
    assert tracker.flush(timeout=30.0)
    before = tracker.notes
    deleted = str(tracker.run_id("search/0"))
    MlflowClient(store[0]).delete_run(deleted)
    for number in range(2):
        tracker.metrics(f"search/{number}", {"loss": 1.0}, step=0)
        tracker.model(f"search/{number}", f"search/{number}", name="m", tags={}, params={})
        tracker.end(f"search/{number}", "FINISHED")
    assert tracker.close(timeout=30.0)
    (line,) = [line for line in tracker.notes if line not in before]
    assert line.startswith("search/0: its run was deleted in MLflow; ")
    assert f"mlflow runs restore --run-id {deleted};" in line
    other = stored(store, tracker, "search/1")
    assert (other.data.metrics, other.info.status) == ({"loss": 1.0}, "FINISHED")


def test_what_a_study_deleted_in_mlflow_would_have_recorded_waits_until_it_is_restored(
    store: tuple[str, str], tmp_path: Path
) -> None:
    tracker = begin(store, tmp_path)
    assert tracker.flush(timeout=30.0)
    client, deleted = MlflowClient(store[0]), str(tracker.run_id("study"))
    client.delete_run(deleted)
    tracker.tags("study", {"found": "1"})
    tracker.metrics("search/0", {"loss": 1.0}, step=0)
    assert not tracker.close(timeout=1.0)
    assert tracker.error == f"the study's run was deleted in MLflow; restore it: mlflow runs restore --run-id {deleted}"
    client.restore_run(deleted)
    again = Tracker(tmp_path / "journal.jsonl", *store)
    assert again.close(timeout=30.0)
    assert stored(store, again, "study").data.tags["found"] == "1"
    assert stored(store, again, "search/0").data.metrics == {"loss": 1.0}
