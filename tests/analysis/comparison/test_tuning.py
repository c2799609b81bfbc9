"""Tuning curves against all choices of trials, tried one by one, and against resampling."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from dmr.analysis.comparison.comparison import compare
from dmr.analysis.comparison.tuning import TuningCurves, tuning_curves
from dmr.analysis.results.study_results import StudyResults, stage_of
from dmr.direction import Direction

RUN_COLUMNS = ["run", "trial", "stage", "status", "method", "config", "seed", "seconds", "model"]
TABLE_COLUMNS = ["run", "trial", "stage", "split", "metric", "combination", "value"]


def study(
    val: dict[str, Sequence[float]],
    test: dict[int, Sequence[float]] | None = None,
    mode: Direction = Direction.MAX,
    statuses: dict[int, str] | None = None,
) -> StudyResults:
    """Trials with one value on val by method, numbered one method after the other; and by trial what its confirmed runs
    have on test, one per seed from 1.
    """
    runs: list[tuple[Any, ...]] = []
    rows: list[tuple[Any, ...]] = []
    numbers = itertools.count()
    for method, values in val.items():
        for value in values:
            trial = next(numbers)
            status = (statuses or {}).get(trial, "completed")
            runs.append((f"r{trial}", trial, "search", status, method, None, 0, 1.0, method))
            rows += [(f"r{trial}", trial, "search", "val", "accuracy_mean", None, value)]
            for seed, tested in enumerate((test or {}).get(trial, ()), start=1):
                run = f"r{trial}/{seed}"
                runs.append((run, trial, "confirm", "completed", method, f"best {trial + 1}", seed, 1.0, method))
                rows += [(run, trial, "confirm", "test", "accuracy", name, tested) for name in ("a", "b", "a-b")]
    return StudyResults(
        study="s",
        dataset="d",
        modalities=("a", "b"),
        objectives=({"metric": "val/accuracy_mean", "mode": mode},),
        searched=("block",),
        main_metric="accuracy",
        main_mode=mode,
        combinations="all 3",
        parent_run_id="p",
        tags={},
        runs=pd.DataFrame(runs, columns=RUN_COLUMNS).set_index("run"),
        table=pd.DataFrame(rows, columns=TABLE_COLUMNS),
    )


def curves(results: StudyResults) -> TuningCurves:
    confirmed = (results.runs["stage"] == "confirm").any()
    found = compare([results], samples=lambda _: None) if confirmed else None
    return tuning_curves([stage_of(results, "search")], found)


@pytest.mark.parametrize("mode", Direction)
def test_six_trials_are_those_of_every_choice(mode: Direction) -> None:
    draw = np.random.default_rng(3)
    val, test = draw.random(6), draw.random((6, 4))
    of_val = curves(study({"m": val}, mode=mode))
    of_test = curves(study({"m": val}, dict(enumerate(test)), mode))
    assert (of_val.split, of_val.metric) == ("val", "accuracy_mean")
    assert (of_test.split, of_test.metric) == ("test", "accuracy_mean")
    for n in range(1, 7):
        best = [int(max(choice, key=lambda t: mode.sign * val[t])) for choice in itertools.combinations(range(6), n)]
        row = of_val.frame.set_index("trials").loc[n]
        assert row["expected"] == pytest.approx(np.mean(val[best]))
        assert (row["low"], row["high"]) == pytest.approx(np.quantile(val[best], (0.1, 0.9), method="inverted_cdf"))
        row = of_test.frame.set_index("trials").loc[n]
        by_seed = test[best].mean(0)
        ends = stats.ttest_1samp(by_seed, 0.0).confidence_interval()
        assert (row["expected"], row["low"], row["high"]) == pytest.approx((by_seed.mean(), ends.low, ends.high))
        assert (row["of"], row["seeds"]) == (6, 4)


def test_resampling_agrees_within_its_error() -> None:
    draw = np.random.default_rng(0)
    val = draw.random(40)
    test = val[:, None] + 0.3 * draw.standard_normal((40, 3))
    found = curves(study({"m": val}, dict(enumerate(test)))).frame.set_index("trials")
    orders = draw.permuted(np.tile(np.arange(40), (20_000, 1)), axis=1)
    for n in (1, 3, 17, 40):
        best = orders[np.arange(20_000), val[orders[:, :n]].argmax(1)]
        drawn = test[best].mean(1)
        error = drawn.std() / np.sqrt(20_000)
        assert abs(found.at[n, "expected"] - drawn.mean()) <= 4 * error + 1e-12


def test_with_all_trials_it_is_the_confirmed_best() -> None:
    """The end of a curve is what `dmr compare` says of `best 1`, interval included."""
    draw = np.random.default_rng(1)
    val = {"one": draw.random(5), "other": draw.random(3)}
    results = study(val, {trial: draw.random(6) for trial in range(8)})
    compared = compare([results], samples=lambda _: None).summary
    frame = curves(results).frame
    for method, first in (("one", 0), ("other", 5)):
        best = compared.loc[f"{method} best {first + int(val[method].argmax()) + 1}"]
        row = frame[(frame["method"] == method) & (frame["trials"] == len(val[method]))].iloc[0]
        assert row[["expected", "low", "high"]].tolist() == pytest.approx(best[["mean", "low", "high"]].tolist())


def test_of_trials_that_are_equal_on_val_each_may_be_chosen() -> None:
    frame = curves(study({"m": [0.5, 0.5, 0.1]}, {0: [0.2, 0.2], 1: [0.6, 0.6], 2: [0.9, 0.9]})).frame
    assert frame["expected"].tolist() == pytest.approx([1.7 / 3, 0.4, 0.4])


def test_one_trial_without_a_confirmed_run_and_all_are_on_val() -> None:
    results = study({"m": [0.5, 0.7], "other": [0.1]}, {0: [0.2], 1: [0.6]})
    found = curves(results)
    assert set(found.frame["split"]) == {"val"}
    assert found.notes[0].startswith("on test once every trial is confirmed")
    apart = study({"m": [0.5, 0.7]}, {0: [0.2], 1: [0.6]})
    apart.runs.loc["r1/1", "seed"] = 2
    assert curves(apart).split == "val", "no seed in common"


def test_trials_that_say_less_are_told() -> None:
    results = study({"m": [0.5, 0.7, float("nan")]}, statuses={0: "pruned", 2: "diverged"})
    found = curves(results)
    assert found.frame["of"].tolist() == [2, 2]
    assert found.notes[1:] == ("1 trial stopped early, with what val had then", "1 trial without values left out")
    with pytest.raises(ValueError, match=r"^study s: no trial has values to draw yet$"):
        curves(study({"m": [float("nan")]}))
    other = replace(results, study="t", objectives=({"metric": "val/accuracy_worst", "mode": Direction.MAX},))
    with pytest.raises(ValueError, match=r"^s and t searched for different objectives$"):
        tuning_curves([results, other], None)
