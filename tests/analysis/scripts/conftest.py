"""Two small confirmed studies, and a way to run a script on them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow.entities import Metric, Param

ROOT = Path(__file__).parents[3]
VALUES = {"site_one": (0.5, 0.4, 0.3, 0.75, 0.8, 0.6, 0.9), "site_two": (0.4, 0.4, 0.3, 0.6, 0.7, 0.5, 0.8)}


@pytest.fixture(scope="session")
def confirmed(store: Any, new_study: Callable[..., Any]) -> dict[str, Any]:
    """By name; both in one experiment, each with one trial, confirmed with two seeds."""
    experiment, found = store.experiment(), {}
    for name, values in VALUES.items():
        study = found[name] = new_study(experiment=experiment, name=name)
        study.trial(0, values)
        for seed in (1, 2):
            tags = {"study": name, "stage": "confirm", "method": "dmrnet", "config": "best 1", "seed": str(seed)}
            tags |= {"trial": "0", "mlflow.parentRunId": study.parent, "stop_reason": "completed"}
            run = study.client.create_run(study.experiment_id, tags=tags).info.run_id
            metrics = [Metric("train/encoder_passes", 7.0, 0, 0)]
            for combination, value in zip(study.combinations.names, values, strict=True):
                metrics.append(Metric(f"best/test/accuracy/{combination}", value, 0, 0))
            study.client.log_batch(run, metrics=metrics, params=[Param("model.method", "dmrnet")])
            study.client.set_terminated(run)
    return found


@pytest.fixture
def run_script(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """`run_script("name.py", ...)`: the script of `analysis/` with these arguments, in an empty folder."""

    def run(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {key: value for key, value in os.environ.items() if key != "MLFLOW_TRACKING_URI"}
        command = [sys.executable, str(ROOT / "analysis" / name), *arguments]
        return subprocess.run(
            command, capture_output=True, text=True, timeout=200, check=False, cwd=tmp_path, env=environment
        )

    return run
