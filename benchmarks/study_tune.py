"""The no-op study in stock Ray Tune: `study_tune.py FOLDER TRIALS EPOCHS`.

A plain function that reports with `tune.report`, reused actors, Ray's OptunaSearch and Ray's MLflow callback. Space,
data set, settings, `dmr.training.fit`, the number of trials at a time, and Optuna and MLflow on SQLite are as in DMR's
study; there are no checkpoints.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import torch
from no_op import write_no_op
from timed import timed_fit

from dmr.studies.study_file.plan import StudyPlan, load_plan
from dmr.training import EpochReport, Reporter


class TuneReporter(Reporter):
    """Metrics through Ray Tune."""

    def load(self) -> None:
        return None

    def save(self, state: dict[str, Any], is_best: bool) -> None:
        pass

    def report(self, report: EpochReport) -> None:
        from ray import tune

        tune.report(report.metrics)


def train(config: dict[str, Any], plan: StudyPlan, folder: Path) -> None:
    """The trainable."""
    torch.set_num_threads(1)
    timed_fit(folder, plan.dataset, plan.run_settings(config, seed=0), torch.device("cpu"), TuneReporter())


def run(folder: Path, trials: int, epochs: int) -> None:
    """Run the study in `folder`."""
    import optuna
    import ray
    from optuna.storages import RDBStorage
    from ray import tune
    from ray.air.integrations.mlflow import MLflowLoggerCallback
    from ray.tune.search.optuna import OptunaSearch

    plan = load_plan(write_no_op(folder), [f"train.epochs={epochs}"], None, None)
    url = f"sqlite:///{folder / 'optuna.db'}"
    search = OptunaSearch(
        plan.space.suggest, metric="val/accuracy_mean", mode="max", storage=RDBStorage(url), study_name="benchmark"
    )
    logger = MLflowLoggerCallback(f"sqlite:///{folder / 'mlflow.db'}", experiment_name="benchmark")
    ray.init(address="local", log_to_driver=False)
    tuner = tune.Tuner(
        tune.with_parameters(train, plan=plan, folder=folder),
        tune_config=tune.TuneConfig(
            search_alg=search, num_samples=trials, max_concurrent_trials=os.cpu_count(), reuse_actors=True
        ),
        run_config=tune.RunConfig(name="tune", storage_path=str(folder), callbacks=[logger], verbose=0),
    )
    results = tuner.fit()
    ray.shutdown()
    assert len(results) == trials, f"{len(results)} of {trials} trials"
    assert not results.errors, results.errors
    states = [t.state.name for t in optuna.load_study(study_name="benchmark", storage=url).trials]
    assert states == ["COMPLETE"] * trials, states


if __name__ == "__main__":
    run(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
