"""The quick start's trials by plain Optuna: `study_plain.py FOLDER TRIALS EPOCHS`.

Two processes share a study in SQLite. Sampler, space, data and `dmr.training.fit` are as in DMR's study, the pruner is
Optuna's successive halving; there are no checkpoints, no MLflow, no figures and no report.
"""

from __future__ import annotations

import multiprocessing
import sys
from functools import partial
from pathlib import Path
from typing import Any

import optuna
import torch
from optuna.storages import RDBStorage

from dmr.studies.search.samplers import make_sampler
from dmr.studies.study_file.plan import StudyPlan, load_plan
from dmr.training import EpochReport, Reporter, fit

DIGITS = Path(__file__).parents[1] / "studies" / "digits.yaml"
PROCESSES = 2


class PlainReporter(Reporter):
    """The running best of the objective, to Optuna."""

    def __init__(self, trial: optuna.Trial) -> None:
        self.trial = trial

    def load(self) -> None:
        return None

    def save(self, state: dict[str, Any], is_best: bool) -> None:
        pass

    def report(self, report: EpochReport) -> None:
        self.trial.report(report.best_metrics["val/accuracy_mean"], report.epoch)
        if self.trial.should_prune():
            raise optuna.TrialPruned


def objective(trial: optuna.Trial, plan: StudyPlan) -> float:
    """Train one trial."""
    settings = plan.run_settings(plan.space.suggest(trial), seed=0)
    report = fit(plan.dataset, settings, torch.device("cpu"), PlainReporter(trial))
    return float(report.best_metrics["val/accuracy_mean"])


def work(seed: int, folder: Path, trials: int, epochs: int) -> None:
    """One of the processes."""
    torch.set_num_threads(1)
    plan = load_plan(DIGITS, [f"train.epochs={epochs}"], None, None)
    pruner = optuna.pruners.SuccessiveHalvingPruner(plan.grace_epochs, plan.study.scheduler.reduction_factor)
    study = optuna.load_study(
        study_name="benchmark", storage=_storage(folder), sampler=make_sampler("tpe", seed), pruner=pruner
    )
    study.optimize(partial(objective, plan=plan), n_trials=trials)


def _storage(folder: Path) -> RDBStorage:
    return RDBStorage(f"sqlite:///{folder / 'optuna.db'}")


def run(folder: Path, trials: int, epochs: int) -> None:
    """Run the study in `folder`."""
    optuna.create_study(storage=_storage(folder), study_name="benchmark", direction="maximize")
    context = multiprocessing.get_context("spawn")
    shares = [trials // PROCESSES + (number < trials % PROCESSES) for number in range(PROCESSES)]
    workers = [
        context.Process(target=work, args=(number, folder, share, epochs)) for number, share in enumerate(shares)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert all(worker.exitcode == 0 for worker in workers)


if __name__ == "__main__":
    run(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
