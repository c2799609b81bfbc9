"""A study as `dmr run` runs it, its trainings timed: `study_dmr.py FOLDER {digits,no-op} TRIALS EPOCHS`,
and where it lies, if not in the folder.

digits: the quick start's study, one trial at a time. no-op: next to no data, as many trials at a time as CPUs.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

from no_op import write_no_op
from timed import timed_fit

from dmr.studies.driver.run_study import run_study
from dmr.studies.storage.locations import Storage
from dmr.studies.storage.optuna_storage import load_search
from dmr.studies.storage.study_folder import StudyFolder
from dmr.studies.study_file.plan import load_plan
from dmr.studies.workers import local_trial as trial

DIGITS = Path(__file__).parents[1] / "studies" / "digits.yaml"
ONE_AT_A_TIME = ["scheduler.name=none", "resources.concurrent=1"]
untimed = trial.run_trial


def run(folder: Path, file: Path, overrides: list[str], trials: int, storage: Storage) -> None:
    """Run a study in `folder`, with Optuna and MLflow on SQLite, or Optuna in object storage."""

    def run_trial(config: dict[str, Any], context: trial.TrialContext, dataset: Any) -> None:
        with patch("dmr.training.fit", partial(timed_fit, folder)):
            untimed(config, context, dataset)

    trial.run_trial = run_trial  # what Tune sends to its processes
    plan = load_plan(file, overrides, trials, "benchmark")
    study = StudyFolder.open(storage, "benchmark")
    finish = run_study(plan, study, None)
    assert finish.tracking_error is None, finish.tracking_error
    states = [trial.state.name for trial in load_search(StudyFolder.open(storage, "benchmark")).trials]
    assert states == ["COMPLETE"] * trials, states


if __name__ == "__main__":
    where, count, epochs = Path(sys.argv[1]), int(sys.argv[3]), f"train.epochs={sys.argv[4]}"
    lies: Storage = sys.argv[5] if len(sys.argv) > 5 else where / "dmr_runs"
    if sys.argv[2] == "digits":
        run(where, DIGITS, [epochs, *ONE_AT_A_TIME], count, lies)
    else:
        run(where, write_no_op(where), [epochs], count, lies)
