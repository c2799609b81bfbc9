"""The table of the best trials, in the letters that a person reads."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from dmr.analysis.results.study_results import StudyResults
from dmr.direction import Direction
from dmr.studies.cli.trials_screen import trials_text

KEYS = {
    "model.prior_std": 0.123456,
    "model.noise_scale": 1.5,
    "model.kl_weight": 1.23456e-5,
    "sampling.strategy": "bernoulli",
    "sampling.keep_prob": 0.54321,
    "train.learning_rate": 0.00123456,
    "train.weight_decay": 1e-4,
    "model.head_norm": "none",
    "model.warmup_epochs": 12,
}


def study(points: list[dict[str, Any]], searched: list[str], objective: str = "accuracy_mean") -> StudyResults:
    """Trials from the worst to the best, the second pruned."""
    runs, rows = [], []
    for trial, point in enumerate(points):
        status = "pruned" if trial == 1 else "completed"
        method = point.get("block", "dmrnet")
        runs.append((f"run{trial}", trial, "search", status, method, None, 0, 1.0, "dmrnet"))
        for at, name in enumerate(("mean", "worst", "full")):
            values = [point.get(key) for key in searched]
            rows.append(
                (f"run{trial}", trial, "search", "val", f"accuracy_{name}", None, 0.5 + trial / 100 + at, *values)
            )
    columns = ["run", "trial", "stage", "status", "method", "config", "seed", "seconds", "model"]
    table = pd.DataFrame(rows, columns=["run", "trial", "stage", "split", "metric", "combination", "value", *searched])
    return StudyResults(
        study="s",
        dataset="d",
        modalities=("rgb", "ir"),
        objectives=({"metric": f"val/{objective}", "mode": Direction.MAX},),
        searched=tuple(searched),
        main_metric="accuracy",
        main_mode=Direction.MAX,
        combinations="all 3",
        parent_run_id="p",
        tags={},
        runs=pd.DataFrame(runs, columns=columns).set_index("run"),
        table=table,
        stopped={"run1": "8 of 60 epochs"},
    )


def points(count: int) -> list[dict[str, Any]]:
    """The same values, without `keep_prob` in every second."""
    without = {key: value for key, value in KEYS.items() if key != "sampling.keep_prob"} | {"sampling.strategy": "x"}
    return [dict(KEYS) if trial % 2 else without for trial in range(count)]


@pytest.mark.parametrize("width", [80, 120])
def test_24_trials_fit_the_screen_in_aligned_columns(width: int) -> None:
    lines = trials_text(study(points(24), list(KEYS)), width).splitlines()
    assert lines[0] == "best 10 of 24 trials by val/accuracy_mean; values on val"
    assert max(map(len, lines)) <= width
    assert len(lines) <= {80: 29, 120: 15}[width]
    rows = [line.split() for line in lines if line.strip()[:2] == "23"]
    shown = [text for row in rows for text in row[1:]]
    values = ["0.123", "1.5", "1.23e-05", "bernoulli", "0.543", "0.00123", "0.0001", "none", "12"]
    assert shown == ["0.7300", "1.7300", "2.7300", *values]
    (without,) = [line for line in lines if line.split()[:1] == ["22"] and "0.7200" in line]
    assert "0.5" not in without.split()  # inactive: no value
    starts = {line.index("0.123") for line in lines if "0.123" in line}
    assert len(starts) == 1


def test_a_trial_stopped_early_says_how_far_it_got() -> None:
    text = trials_text(study(points(3), ["model.prior_std"]), 80)
    ended = {line.split()[0]: line.split()[4:6] for line in text.splitlines()[-3:]}
    assert ended == {"2": ["completed", "0.123"], "1": ["pruned", "8/60"], "0": ["completed", "0.123"]}


def test_what_was_searched_for_comes_first() -> None:
    head = trials_text(study(points(1), ["model.prior_std"], "accuracy_worst"), 80).splitlines()[3]
    assert head.split() == ["trial", "worst", "mean", "full", "std"]


def test_the_keys_of_blocks_are_a_line_under_the_trial() -> None:
    keys = {"model.prior_std": 0.5, "train.learning_rate": 0.001}
    found = [
        {"block": "dmrnet", **keys},
        {"block": "dropout", "train.learning_rate": 0.01},
        {"block": "dmrnet", **keys},
    ]
    lines = trials_text(study(found, ["block", *keys]), 80).splitlines()
    assert lines[0].startswith("best 3 of 3 trials by val/accuracy_mean, some of each block")
    assert lines[lines.index(next(line for line in lines if line.startswith("    1  dropout"))) + 1].split() == [
        "learning_rate",
        "0.01",
    ]
    narrow = trials_text(study(found, ["block", *keys]), 40).splitlines()
    assert not any(line.endswith(("prior_std", "learning_rate")) for line in narrow)  # never torn from its value


def test_without_searched_keys_there_are_scores() -> None:
    lines = trials_text(study([{}], []), 80).splitlines()
    assert lines[2].split() == ["trial", "mean", "worst", "full"]
    assert np.char.isnumeric(lines[-1].split()[0])
