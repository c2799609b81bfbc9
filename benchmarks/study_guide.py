"""The quick start's study in the pattern of Ray's guide for Train inside Tune: `study_guide.py FOLDER TRIALS EPOCHS`.

A trainable that builds a TorchTrainer with one worker, Ray's OptunaSearch and Ray's MLflow callback. What is not the
pattern is as in DMR's study: space, data set (handed over by Ray), `dmr.training.fit`, one trial at a time, a
checkpoint an epoch, Optuna and MLflow on SQLite.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from timed import timed_fit

from dmr.data.dataset import MultimodalDataset
from dmr.training import EpochReport, Reporter, RunSettings

DIGITS = Path(__file__).parents[1] / "studies" / "digits.yaml"


class WorkerReporter(Reporter):
    """Metrics and a checkpoint an epoch through Ray Train."""

    def load(self) -> None:
        return None

    def save(self, state: dict[str, Any], is_best: bool) -> None:
        self.state = state

    def report(self, report: EpochReport) -> None:
        from ray import train

        with TemporaryDirectory() as folder:
            torch.save(self.state, Path(folder) / "state.pt")
            train.report(report.metrics, checkpoint=train.Checkpoint.from_directory(folder))


def train_worker(config: dict[str, Any]) -> None:
    """The guide's training function."""
    torch.set_num_threads(1)
    timed_fit(config["folder"], config["dataset"], config["settings"], torch.device("cpu"), WorkerReporter())


def train_driver(config: dict[str, Any], base: RunSettings, dataset: MultimodalDataset, folder: Path) -> None:
    """The guide's trainable."""
    from ray import train, tune
    from ray.train.torch import TorchTrainer
    from ray.tune.integration.ray_train import TuneReportCallback

    own = {
        section: {k.partition(".")[2]: v for k, v in config.items() if k.startswith(section)} for section in SECTIONS
    }
    settings = replace(
        base, method=replace(base.method, **own["model"]), sampling=replace(base.sampling, **own["sampling"])
    )
    TorchTrainer(
        train_worker,
        train_loop_config={"settings": settings, "dataset": dataset, "folder": folder},
        scaling_config=train.ScalingConfig(num_workers=1),
        run_config=train.RunConfig(
            name=f"train-{tune.get_context().get_trial_id()}",
            storage_path=str(folder),
            callbacks=[TuneReportCallback()],
        ),
    ).fit()


SECTIONS = ("model", "sampling")


def run(folder: Path, trials: int, epochs: int) -> None:
    """Run the study in `folder`."""
    import ray
    from optuna.storages import RDBStorage
    from ray import tune
    from ray.air.integrations.mlflow import MLflowLoggerCallback
    from ray.tune.search.optuna import OptunaSearch

    from dmr.studies.study_file.plan import load_plan

    plan = load_plan(DIGITS, [f"train.epochs={epochs}"], None, None)
    search = OptunaSearch(
        plan.space.suggest,
        metric="val/accuracy_mean",
        mode="max",
        storage=RDBStorage(f"sqlite:///{folder / 'optuna.db'}"),
    )
    logger = MLflowLoggerCallback(f"sqlite:///{folder / 'mlflow.db'}", experiment_name="digits")
    ray.init(address="local", log_to_driver=False)
    tuner = tune.Tuner(
        tune.with_parameters(train_driver, base=plan.run_settings({}, seed=0), dataset=plan.dataset, folder=folder),
        tune_config=tune.TuneConfig(search_alg=search, num_samples=trials, max_concurrent_trials=1),
        run_config=tune.RunConfig(name="tune", storage_path=str(folder), callbacks=[logger], verbose=0),
    )
    results = tuner.fit()
    ray.shutdown()
    assert len(results) == trials, f"{len(results)} of {trials} trials"
    assert not results.errors, results.errors


if __name__ == "__main__":
    run(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
