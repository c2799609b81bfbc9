"""A study as `dmr run` runs it, its trainings timed: `study_dmr.py FOLDER {digits,no-op} TRIALS EPOCHS`.

digits: the quick start's study, one trial at a time. no-op: next to no data, as many trials at a time as CPUs.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import optuna
from timed import timed_fit

from studies import trial
from studies.folder import StudyFolder
from studies.launch import run_study
from studies.plan import load_plan

DIGITS = Path(__file__).parents[1] / "studies" / "digits.yaml"
ONE_AT_A_TIME = ["scheduler.name=none", "resources.concurrent=1"]
untimed = trial.run_trial


def run(folder: Path, file: Path, overrides: list[str], trials: int) -> None:
    """Run a study in `folder`, with Optuna and MLflow on SQLite."""

    def run_trial(config: dict[str, Any], context: trial.TrialContext, dataset: Any) -> None:
        with patch("dmr.training.fit", partial(timed_fit, folder)):
            untimed(config, context, dataset)

    trial.run_trial = run_trial  # what Tune sends to its processes
    plan = load_plan(file, overrides, trials, "benchmark")
    study = StudyFolder(folder / "dmr_runs", "benchmark")
    run_study(plan, study, None)
    states = [t.state.name for t in optuna.load_study(study_name="benchmark", storage=study.places().optuna_url).trials]
    assert states == ["COMPLETE"] * trials, states


def write_no_op(folder: Path) -> Path:
    """A study of trials that train next to nothing: 32 samples of two vectors of 4 numbers, in 2 classes."""
    draw = np.random.default_rng(0)
    data = folder / "data"
    for split in ("train", "val"):
        (data / split).mkdir(parents=True)
        np.save(data / split / "label.npy", np.arange(32) % 2)
        for name in ("a", "b"):
            np.save(data / split / f"{name}.npy", draw.standard_normal((32, 4)).astype(np.float32))
    modalities = "[{name: a, kind: vector, shape: [4]}, {name: b, kind: vector, shape: [4]}]"
    (data / "dataset.yaml").write_text(f"task: classification\nnum_classes: 2\nmodalities: {modalities}\n")
    file = folder / "no_op.yaml"
    file.write_text(f"dataset: {{name: arrays, path: {data}}}\nscheduler: {{name: none}}\n")
    return file


if __name__ == "__main__":
    where, count, epochs = Path(sys.argv[1]), int(sys.argv[3]), f"train.epochs={sys.argv[4]}"
    if sys.argv[2] == "digits":
        run(where, DIGITS, [epochs, *ONE_AT_A_TIME], count)
    else:
        run(where, write_no_op(where), [epochs], count)
