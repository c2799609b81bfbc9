"""Stores and disks that fail while a study runs, or before it starts."""

from __future__ import annotations

import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.tracking import MlflowClient
from mlflow.utils import find_free_port

OUTAGE = 20.0


def epochs_recorded(place) -> int:
    return sum(len(trial.intermediate_values) for trial in place.optuna_trials())


@pytest.mark.slow
@pytest.mark.parametrize("how", ["locked", pytest.param("read-only", marks=pytest.mark.long)])
def test_mlflow_cannot_be_written_for_20_seconds_and_nothing_is_lost_or_doubled(workplace, how):
    workplace.write_slow(budget={"trials": 8}, train__epochs=12)
    driver = workplace.start("run", "small.yaml")
    workplace.wait_for(lambda: workplace.epochs_of_running())
    store = workplace.path / "mlflow.db"
    before = epochs_recorded(workplace)
    if how == "locked":
        with sqlite3.connect(store, timeout=30.0, isolation_level=None) as lock:
            lock.execute("BEGIN EXCLUSIVE")
            time.sleep(OUTAGE)
            lock.execute("ROLLBACK")
    else:
        if subprocess.run(["chattr", "+i", store], capture_output=True, check=False).returncode:
            pytest.skip("this file system cannot make a file immutable")
        try:
            time.sleep(OUTAGE)
        finally:
            subprocess.run(["chattr", "-i", store], check=True)
    assert epochs_recorded(workplace) > before + 20, "trials waited for MLflow"
    _, err = driver.communicate(timeout=240)
    assert driver.returncode == 0, err
    workplace.assert_exact(8, 12)


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(900)
def test_an_mlflow_server_dies_and_comes_back_at_the_next_resume(workplace):
    port = find_free_port()
    uri = f"sqlite:///{workplace.path / 'mlflow.db'}"
    server_command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri, "--workers", "1"]
    server_command += ["--artifacts-destination", str(workplace.path / "artifacts")]
    server_command += ["--host", "127.0.0.1", "--port", str(port)]

    def start_server() -> subprocess.Popen[bytes]:
        started = subprocess.Popen(
            server_command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        workplace.wait_for(lambda: not socket.socket().connect_ex(("127.0.0.1", port)))
        return started

    def end(server: subprocess.Popen[bytes]) -> None:
        os.killpg(server.pid, 9)
        server.wait()

    workplace.write_slow(budget={"trials": 3})
    server = start_server()
    try:
        workplace.environment["MLFLOW_TRACKING_URI"] = f"http://127.0.0.1:{port}"
        driver = workplace.start("run", "small.yaml")
        workplace.wait_for(lambda: workplace.epochs_of_running() > 3)
    finally:
        end(server)
    _, err = driver.communicate(timeout=240)
    assert driver.returncode == 0, err
    assert "MLflow" in err
    assert "dmr resume" in err
    server = start_server()
    try:
        assert "study small is complete: 3 trials" in workplace.run("resume", "small").stderr
    finally:
        end(server)
    workplace.assert_exact(3, 8)
    parent = workplace.mlflow_runs(stage="study")[0].info.run_id
    assert list((workplace.path / "artifacts").rglob(f"{parent}/artifacts/heatmap.png"))


@pytest.mark.slow
def test_a_disk_that_fills_up_stops_the_study_and_it_goes_on_with_more_room(workplace):
    disk = workplace.path / "dmr_runs"
    disk.mkdir()
    size = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)]
    if subprocess.run(size, capture_output=True, check=False).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        workplace.write(budget={"trials": 8}, model__encoder={"name": "mlp", "width": 128}, scheduler={"name": "none"})
        full = workplace.dmr("run", "small.yaml")
        assert full.returncode == 1
        assert "the study stops" in full.stderr
        assert "No space left" in full.stderr
        assert full.stderr.strip().endswith("stopped; go on with: dmr resume small")
        assert "Traceback" not in full.stderr
        assert len(workplace.states()) < 8
        subprocess.run(["mount", "-o", "remount,size=200m", str(disk)], check=True)
        workplace.run("resume", "small")
        workplace.assert_exact(8, 4)
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


@pytest.mark.parametrize(
    ("uri", "text"),
    [
        ("http://127.0.0.1:9", "MLflow store http://127.0.0.1:9: cannot be used"),
        ("http://me:secret@127.0.0.1:9", "MLflow store http://me:***@127.0.0.1:9: cannot be used"),
        ("sqlite:////nowhere/at/all/mlflow.db", "there is no directory /nowhere/at/all"),
        ("file:///tmp/mlruns", "MLflow no longer writes to folders"),
        ("postgresql://me:secret@127.0.0.1:9/db", "MLflow store postgresql://me:***@127.0.0.1:9/db: cannot be used"),
    ],
)
def test_a_store_that_is_not_there_at_the_start(place, monkeypatch, uri, text):
    place.write()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    refused = place.dmr("run", "small.yaml")
    assert refused.exit_code == 2
    assert text in refused.stderr
    assert "secret" not in refused.stderr
    assert len(refused.stderr.splitlines()) == 1
    assert not (place.path / "dmr_runs").exists()


def test_what_mlflow_refuses_for_good_is_named_and_ends_with_exit_code_1(place, monkeypatch):
    real = MlflowClient.log_batch

    def refusing(self, run_id, metrics=(), params=(), tags=()):
        if any(metric.key == "val/accuracy_worst" for metric in metrics):
            raise MlflowException("no such name", INVALID_PARAMETER_VALUE)
        return real(self, run_id, metrics=metrics, params=params, tags=tags)

    monkeypatch.setattr(MlflowClient, "log_batch", refusing)
    place.write(train__epochs=2)
    done = place.dmr("train", "small.yaml")
    assert done.exit_code == 1
    assert "train: MLflow refuses its metric val/accuracy_worst: no such name" in done.stderr.splitlines()
    (run,) = place.mlflow_runs(stage="train")
    history = place.history(run)
    assert [step for step, _ in history["val/accuracy_mean"]] == [0, 1]
    assert "val/accuracy_worst" not in history
    assert run.info.status == "FINISHED"


def test_a_store_that_is_no_database(place):
    place.write()
    Path(place.path / "mlflow.db").write_text("no database at all" * 100)
    refused = place.dmr("run", "small.yaml")
    assert refused.exit_code == 2
    assert "mlflow.db: cannot be written: file is not a database" in refused.stderr


def test_an_optuna_storage_that_is_not_there(place, monkeypatch):
    place.write()
    monkeypatch.setenv("DMR_OPTUNA_URL", "sqlite:////nowhere/at/all/optuna.db")
    refused = place.dmr("run", "small.yaml")
    assert refused.exit_code == 2
    assert "Optuna's storage sqlite:////nowhere/at/all/optuna.db: cannot be used" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1


@pytest.mark.slow
def test_stores_that_were_deleted_or_damaged_after_the_study(workplace):
    workplace.write(budget={"trials": 1}, train__epochs=1)
    workplace.run("run", "small.yaml")
    os.remove(workplace.path / "mlflow.db")
    shutil.rmtree(workplace.path / "mlruns")
    shown = workplace.dmr("table", "small")
    assert shown.returncode == 2
    assert "there is no such file" in shown.stderr
    (workplace.path / "dmr_runs/small/optuna.db").write_bytes(b"no database" * 100)
    listed = workplace.run("list")
    assert listed.stdout.startswith("small: Optuna's storage")
    assert "file is not a database" in listed.stdout
    assert workplace.dmr("status", "small").returncode == 2


@pytest.mark.slow
def test_two_studies_of_one_name_in_one_store_keep_apart(workplace):
    """Each has its own folder; the second one's table, and its removal, leave the first one's runs alone."""
    workplace.write(budget={"trials": 1}, train__epochs=1)
    workplace.run("run", "small.yaml", "--storage", "mine")
    workplace.run("run", "small.yaml", "--storage", "theirs", "--trials", "2")
    assert len(workplace.mlflow_runs()) == 3
    workplace.run("rm", "small", "--yes", "--storage", "theirs")
    (left,) = workplace.mlflow_runs()
    assert left.info.status == "FINISHED"
    assert "best 1 of 1 trial by" in workplace.run("run", "small.yaml", "--storage", "mine").stdout
    workplace.environment["DMR_OPTUNA_URL"] = f"sqlite:///{workplace.path / 'mine/small/optuna.db'}"
    refused = workplace.dmr("run", "small.yaml", "--storage", "third")
    assert refused.returncode == 2
    assert "has another study 'small'" in refused.stderr


def test_an_address_where_no_cluster_answers(place):
    place.write()
    refused = place.dmr("run", "small.yaml", "--address", f"127.0.0.1:{find_free_port()}")
    assert refused.exit_code == 2
    assert "no Ray cluster answers" in refused.stderr
    assert not (place.path / "dmr_runs").exists()


def test_a_storage_that_is_a_file(place):
    place.write()
    for storage in ("small.yaml", "small.yaml/below", "~nobody-of-this-name/x"):
        refused = place.dmr("run", "small.yaml", "--storage", storage)
        assert refused.exit_code == 2
        assert len(refused.stderr.splitlines()) == 1


@pytest.mark.slow
def test_two_studies_started_at_once_in_a_fresh_directory(workplace):
    (workplace.path / "mlflow.db").unlink()
    for name in ("one", "two"):
        workplace.write(name, budget={"trials": 1}, train__epochs=1)
    drivers = [workplace.start("run", f"{name}.yaml") for name in ("one", "two")]
    for driver in drivers:
        _, err = driver.communicate(timeout=200)
        assert driver.returncode == 0, err
    assert len(workplace.mlflow_runs("one")) == len(workplace.mlflow_runs("two")) == 1
