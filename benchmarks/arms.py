"""The studies that overhead.py compares, each run in a process of its own: `arms.py {dmr,guide,no-op} FOLDER TRIALS EPOCHS`.

dmr: `studies.launch.run_study`. guide: the pattern of Ray's guide for Train inside Tune, a trainable that builds a
TorchTrainer with a worker, with OptunaSearch and Ray's MLflow callback. Both run the quick start's study on digits,
one trial at a time, with `dmr.training.fit`, Optuna and MLflow on SQLite, and a checkpoint an epoch. no-op: `run_study`
on next to no data, as many trials at a time as there are CPUs.

Each training writes a line to FOLDER/times.jsonl: when fit() began and ended, and the seconds of it that were training,
which are all but those spent in the reporter.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from dmr.training import EpochReport, Reporter, RunSettings, fit

ROOT = Path(__file__).parents[1]
ONE_AT_A_TIME = ["scheduler.name=none", "resources.concurrent=1"]


class Clocked(Reporter):
    """Hands on to a reporter and counts the seconds spent in it."""

    def __init__(self, inner: Reporter) -> None:
        self.inner, self.seconds = inner, 0.0

    def load(self) -> dict[str, Any] | None:
        return self._counted(self.inner.load)

    def save(self, state: dict[str, Any], is_best: bool) -> None:
        self._counted(self.inner.save, state, is_best)

    def report(self, report: EpochReport) -> None:
        self._counted(self.inner.report, report)

    def _counted(self, call: Callable[..., Any], *arguments: Any) -> Any:
        started = time.perf_counter()
        try:
            return call(*arguments)
        finally:
            self.seconds += time.perf_counter() - started


def timed_fit(times: Path) -> Callable[..., EpochReport]:
    """`dmr.training.fit` that writes a line to `times`."""

    def timed(dataset: Any, settings: RunSettings, device: torch.device, reporter: Reporter) -> EpochReport:
        clocked, began, started = Clocked(reporter), time.time(), time.perf_counter()
        report = fit(dataset, settings, device, clocked)
        training = time.perf_counter() - started - clocked.seconds
        with open(times, "a") as file:
            file.write(json.dumps({"began": began, "ended": time.time(), "training": training}) + "\n")
        return report

    return timed


def run_dmr(folder: Path, study: Path, overrides: list[str], trials: int) -> None:
    """A study as `dmr run` runs it; the only change is that trials are timed."""
    from studies import trial
    from studies.folder import StudyFolder
    from studies.launch import run_study
    from studies.plan import load_plan

    untimed = trial.run_trial

    def run_trial(config: dict[str, Any], context: Any, dataset: Any) -> None:
        with patch("dmr.training.fit", timed_fit(folder / "times.jsonl")):
            untimed(config, context, dataset)

    trial.run_trial = run_trial
    plan = load_plan(study, overrides, trials, "benchmark")
    assert run_study(plan, StudyFolder(folder / "dmr_runs", "benchmark"), None) == "complete"


def run_guide(folder: Path, overrides: list[str], trials: int) -> None:
    """The same study as Ray's guide has it."""
    import ray
    from optuna.storages import RDBStorage
    from ray import tune
    from ray.air.integrations.mlflow import MLflowLoggerCallback
    from ray.tune.search.optuna import OptunaSearch

    from studies.plan import load_plan

    plan = load_plan(ROOT / "studies" / "digits.yaml", overrides, trials, "benchmark")
    ray.init(address="local", log_to_driver=False)
    tuner = tune.Tuner(
        tune.with_parameters(
            train_driver, base=plan.run_settings({}, seed=0), dataset=plan.dataset, folder=str(folder)
        ),
        tune_config=tune.TuneConfig(
            search_alg=OptunaSearch(
                plan.space.suggest, metric="val/accuracy_mean", mode="max", storage=RDBStorage("sqlite:///optuna.db")
            ),
            num_samples=trials,
            max_concurrent_trials=1,
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str(folder),
            callbacks=[MLflowLoggerCallback("sqlite:///mlflow.db", experiment_name="digits")],
            verbose=0,
        ),
    )
    results = tuner.fit()
    assert len(results) == trials and not results.errors, results.errors
    ray.shutdown()


def train_driver(config: dict[str, Any], base: RunSettings, dataset: Any, folder: str) -> None:
    """The guide's trainable: a TorchTrainer with one worker."""
    from ray import train, tune
    from ray.train.torch import TorchTrainer
    from ray.tune.integration.ray_train import TuneReportCallback

    model = {key.removeprefix("model."): value for key, value in config.items() if key.startswith("model.")}
    sampling = {key.removeprefix("sampling."): value for key, value in config.items() if key.startswith("sampling.")}
    settings = replace(base, method=replace(base.method, **model), sampling=replace(base.sampling, **sampling))
    TorchTrainer(
        train_worker,
        train_loop_config={"settings": settings, "dataset": dataset, "folder": folder},
        scaling_config=train.ScalingConfig(num_workers=1),
        run_config=train.RunConfig(
            name=f"train-{tune.get_context().get_trial_id()}", storage_path=folder, callbacks=[TuneReportCallback()]
        ),
    ).fit()


def train_worker(config: dict[str, Any]) -> None:
    torch.set_num_threads(1)
    timed_fit(Path(config["folder"]) / "times.jsonl")(
        config["dataset"], config["settings"], torch.device("cpu"), WorkerReporter()
    )


class WorkerReporter(Reporter):
    """Reports through Ray Train, as the guide's training function does."""

    def load(self) -> None:
        return None

    def save(self, state: dict[str, Any], is_best: bool) -> None:
        self.state = state

    def report(self, report: EpochReport) -> None:
        from ray import train

        with TemporaryDirectory() as folder:
            torch.save(self.state, Path(folder) / "state.pt")
            train.report(report.metrics, checkpoint=train.Checkpoint.from_directory(folder))


def write_next_to_no_data(folder: Path) -> Path:
    """A study of trials that train next to nothing: 32 samples of two vectors of 4 numbers, in 2 classes."""
    draw = np.random.default_rng(0)
    for split in ("train", "val"):
        (folder / "data" / split).mkdir(parents=True)
        np.save(folder / "data" / split / "label.npy", np.arange(32) % 2)
        for name in ("a", "b"):
            np.save(folder / "data" / split / f"{name}.npy", draw.standard_normal((32, 4)).astype(np.float32))
    (folder / "data" / "dataset.yaml").write_text(
        "task: classification\nnum_classes: 2\n"
        "modalities: [{name: a, kind: vector, shape: [4]}, {name: b, kind: vector, shape: [4]}]\n"
    )
    study = folder / "no_op.yaml"
    study.write_text(f"dataset: {{name: arrays, path: {folder / 'data'}}}\nscheduler: {{name: none}}\n")
    return study


def main() -> None:
    which, folder, trials, epochs = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    overrides = [f"train.epochs={epochs}"]
    if which == "dmr":
        run_dmr(folder, ROOT / "studies" / "digits.yaml", overrides + ONE_AT_A_TIME, trials)
    elif which == "guide":
        run_guide(folder, overrides + ONE_AT_A_TIME, trials)
    else:
        run_dmr(folder, write_next_to_no_data(folder), overrides, trials)


if __name__ == "__main__":
    main()
