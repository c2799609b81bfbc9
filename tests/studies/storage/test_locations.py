"""What a cluster or a Ray job would lose is refused before anything is started."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from dmr.direction import Direction
from dmr.studies.driver import run_study
from dmr.studies.driver.ray_cluster import measure_need, slots_on_demand
from dmr.studies.errors import StudyError
from dmr.studies.storage.locations import resolve_storage
from dmr.studies.storage.study_folder import StudyFolder
from dmr.studies.study_file.plan import load_plan
from dmr.studies.trial_messages import PAYLOAD
from dmr.studies.workers import local_trial as trial

DIGITS = Path(__file__).parents[3] / "studies/digits.yaml"


@pytest.fixture
def in_a_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    monkeypatch.delenv("DMR_STORAGE", raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.mark.parametrize("url", ["http://host/runs", "hdfs://host", "file:///runs"])
def test_a_url_of_something_else_is_no_storage_and_makes_no_folder(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shown = url.replace(":///", "://")
    with pytest.raises(StudyError, match=rf"^storage {shown}: allowed are a folder and URLs that begin with s3://"):
        resolve_storage(Path(url))
    monkeypatch.setenv("DMR_STORAGE", url)
    with pytest.raises(StudyError, match=r"allowed are a folder"):
        resolve_storage(None)


def test_a_folder_may_have_a_colon_in_its_name(tmp_path: Path) -> None:
    assert resolve_storage(tmp_path / "a:b") == tmp_path.resolve() / "a:b"


@pytest.mark.usefixtures("in_a_job")
@pytest.mark.parametrize("given", [None, "runs", "./runs"])
def test_a_job_needs_an_absolute_storage(given: str | None) -> None:
    with pytest.raises(StudyError, match=r"^storage (dmr_)?runs: a Ray job's working directory is a temporary copy"):
        resolve_storage(Path(given) if given else None)


@pytest.mark.usefixtures("in_a_job")
def test_a_job_needs_a_tracking_store_that_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = StudyFolder(resolve_storage(tmp_path), "small")
    with pytest.raises(StudyError, match=r"^MLFLOW_TRACKING_URI: not set, and a Ray job's working directory"):
        run_study.resolve_store_uris(folder.optuna_url)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    assert run_study.resolve_store_uris(folder.optuna_url).tracking_uri == "http://127.0.0.1:5000"


def test_a_trial_on_a_node_without_the_storage_stops_the_study_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[dict[str, Any]] = []
    monkeypatch.setattr("ray.tune.report", told.append)
    threads = torch.get_num_threads()
    context = trial.TrialContext(StudyFolder(tmp_path / "absent", "small"), "search", ("val/loss", Direction.MIN), 1, 0)
    trial.train_here(0, None, None, context, None)  # type: ignore[arg-type]
    torch.set_num_threads(threads)
    assert "absent/small: node " in json.loads(told[0][PAYLOAD])["storage"]
    assert not (tmp_path / "absent").exists()


@pytest.mark.parametrize(
    ("cpus", "places"), [(0.0, 4), (2.0, 4), (64.0, 32)], ids=["empty", "begun to grow", "larger than asked for"]
)
def test_a_cluster_that_grows_counts_as_grown(cpus: float, places: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray.autoscaler.v2.utils.is_autoscaler_v2", lambda fetch_from_server: True)
    monkeypatch.setattr("ray.nodes", lambda: [{"Alive": True, "Resources": {"CPU": cpus}}])
    plan = load_plan(DIGITS, ["resources.concurrent=4", "resources.cpus=2"], None, None)
    assert measure_need(plan).worker_slots == measure_need(plan).fits == places


def test_how_far_a_cluster_grows_must_be_said(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = load_plan(DIGITS, [], None, None)
    monkeypatch.setattr("ray.autoscaler.v2.utils.is_autoscaler_v2", lambda fetch_from_server: True)
    with pytest.raises(StudyError, match=r"^resources.concurrent: none is given, and this cluster grows on demand"):
        slots_on_demand(plan)
    monkeypatch.setattr("ray.autoscaler.v2.utils.is_autoscaler_v2", lambda fetch_from_server: False)
    assert slots_on_demand(plan) == 0
