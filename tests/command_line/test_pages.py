"""The pages of MLflow and of Optuna's dashboard on a finished study, opened in a real browser."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from mlflow.utils import find_free_port

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PATIENCE = 30_000.0  # ms for a text to appear
SLOW_LAYOUT = "ResizeObserver loop"  # how a browser says that a layout took two frames, as on a busy machine
NOT_OURS = "/mlflow/users/current"  # MLflow's own page asks for it and its server does not have it without accounts

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium on this machine")]


@contextmanager
def server(place, command) -> Iterator[str]:
    """Run a command that listens on the port it is given as `PORT`, until the end of the context."""
    port = find_free_port()
    own = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [str(part).replace("PORT", str(port)) for part in command],
        cwd=place.path,
        env={**os.environ, **own},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        place.wait_for(lambda: process.poll() is None and not socket.socket().connect_ex(("127.0.0.1", port)))
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()


@contextmanager
def browser() -> Iterator[tuple[object, list[str]]]:
    """A page, and what went wrong on it."""
    from playwright.sync_api import sync_playwright

    errors: list[str] = []
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = chromium.new_page(viewport={"width": 1500, "height": 1400})
        page.set_default_timeout(PATIENCE)
        page.on("pageerror", lambda error: errors.append(str(error)))

        def listen(message) -> None:
            where = message.location["url"]
            ours = "127.0.0.1" in where and NOT_OURS not in where and SLOW_LAYOUT not in message.text
            if message.type == "error" and ours:
                errors.append(f"{where}: {message.text}")

        page.on("console", listen)
        yield page, errors
        chromium.close()


@pytest.fixture(scope="module")
def runs(finished):
    """The experiment, the study's own run, its trials and a run's page in MLflow."""
    (parent,), trials = finished.mlflow_runs(stage="study"), finished.mlflow_runs()
    return parent.info.experiment_id, parent, trials


def test_mlflow(finished, runs):
    experiment, parent, trials = runs
    dmr = Path(sys.executable).with_name("dmr")
    with server(finished, [dmr, "ui", "--port", "PORT"]) as base, browser() as (page, errors):
        page.goto(f"{base}/#/experiments/{experiment}/runs/{parent.info.run_id}")
        page.get_by_text("is the best of the search").wait_for()
        page.get_by_text("Show more").first.click()
        for text in ("4 trials: 4 completed", "Filters for the table of runs", "small-winner"):
            page.get_by_text(text).first.wait_for()
        best = next(run for run in trials if run.info.run_id in parent.data.tags["mlflow.note.content"])
        with page.expect_popup() as opened:
            page.get_by_role("link", name=f"trial {best.data.tags['trial']}").first.click()
        value = f"{best.data.metrics['best/val/accuracy_mean']:.4f}"
        opened.value.get_by_text(f"mean over combinations {value}").wait_for(timeout=PATIENCE)
        opened.value.close()

        page.goto(f"{base}/#/experiments/{experiment}/runs/{parent.info.run_id}/artifacts")
        page.get_by_text("heatmap.png").first.click()
        page.locator("img[src*='blob:'], img[alt*='heatmap']").first.wait_for()

        page.goto(f"{base}/#/experiments/{experiment}/runs/{best.info.run_id}/model-metrics")
        page.get_by_text("accuracy_worst", exact=True).first.wait_for()

        ids = json.dumps([run.info.run_id for run in trials])
        page.goto(f'{base}/#/compare-runs?runs={ids}&experiments=["{experiment}"]')
        page.get_by_text("Comparing 4 Runs").wait_for()
        page.get_by_text("log10_model.kl_weight").first.wait_for()

        page.goto(f"{base}/#/experiments/{experiment}/models")
        page.get_by_text("small-0003").first.wait_for()
        page.get_by_text("small-winner").first.wait_for()

        page.goto(f"{base}/#/experiments/{experiment}/runs")
        page.get_by_text(f"{parent.data.tags['dataset']} (").first.click()
        page.get_by_text("vector 6").wait_for()
        assert errors == []


def test_the_dashboard_of_optuna(finished):
    dashboard = Path(sys.executable).with_name("optuna-dashboard")
    storage = f"sqlite:///{finished.path / 'dmr_runs/small/optuna.db'}"
    command = [dashboard, storage, "--host", "127.0.0.1", "--port", "PORT"]
    with server(finished, command) as base, browser() as (page, errors):
        page.goto(f"{base}/dashboard/studies/1")
        page.get_by_text("Hyperparameter Importance").first.wait_for()
        page.get_by_text("val/accuracy_mean").first.wait_for()
        page.goto(f"{base}/dashboard/studies/1/trials")
        page.get_by_text("model.prior_std").first.wait_for()
        assert errors == []
