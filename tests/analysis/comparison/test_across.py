"""Methods over data sets, against numbers computed in another way and against `compare` of one study."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from scipy import stats

from dmr.analysis.comparison.across import across
from dmr.analysis.comparison.comparison import compare
from dmr.analysis.results.study_results import StudyResults
from dmr.combinations import all_combinations
from dmr.direction import Direction

RUN_COLUMNS = ["run", "trial", "stage", "status", "method", "config", "seed", "seconds", "model"]
TABLE_COLUMNS = ["run", "trial", "stage", "split", "metric", "combination", "value"]
Values = npt.NDArray[np.float64]


def study(
    name: str,
    values: Mapping[str, Values],
    mode: Direction = Direction.MAX,
    by: str = "mean",
    val: Mapping[str, float] | None = None,
    first_seed: Mapping[str, int] | None = None,
) -> StudyResults:
    """`values` (S, C) on test by `method config`, and of each that `val` names a trial of the search."""
    metric = "accuracy" if mode is Direction.MAX else "acer"
    width = next(iter(values.values())).shape[1]
    modalities = tuple("abc"[: (width + 1).bit_length() - 1])
    names = all_combinations(modalities).names
    runs: list[tuple[Any, ...]] = []
    rows: list[tuple[Any, ...]] = []
    for trial, (label, own) in enumerate(values.items()):
        method, config = label.split(" ", 1)
        if val is not None and label in val:
            runs.append((f"{name}{trial}", trial, "search", "completed", method, None, 0, 1.0, method))
            rows.append((f"{name}{trial}", trial, "search", "val", f"{metric}_{by}", None, val[label]))
        for seed, of_seed in enumerate(own, start=(first_seed or {}).get(label, 1)):
            run = f"{name}{trial}/{seed}"
            runs.append((run, trial, "confirm", "completed", method, config, seed, 1.0, method))
            rows += [(run, trial, "confirm", "test", metric, c, v) for c, v in zip(names, of_seed, strict=True)]
    return StudyResults(
        study=name,
        dataset=f"data of {name}",
        modalities=modalities,
        objectives=({"metric": f"val/{metric}_{by}", "mode": mode},),
        searched=("block",),
        main_metric=metric,
        main_mode=mode,
        combinations=f"all {len(names)}",
        parent_run_id="p",
        tags={},
        runs=pd.DataFrame(runs, columns=RUN_COLUMNS).set_index("run"),
        table=pd.DataFrame(rows, columns=TABLE_COLUMNS),
    )


def drawn(seed: int, methods: str, seeds: int, combinations: int) -> dict[str, Values]:
    draw = np.random.default_rng(seed)
    return {f"{m} best 1": 0.1 * draw.random() + 0.3 * draw.random((seeds, combinations)) for m in methods}


def test_of_one_data_set_it_is_compare() -> None:
    results = study("one", drawn(0, "xyz", 6, 7), val={"y best 1": 0.9, "x best 1": 0.8, "z best 1": 0.7})
    summary = compare([results], samples=lambda _: None).summary.set_index("method")
    found = across([results])
    assert found.reference == "y"
    for name, low, high in (("mean", "low", "high"), ("worst", "worst_low", "worst_high"), ("full",) * 3):
        levels = found.levels[found.levels["summary"] == name].set_index("method")
        columns = [name, low, high] if name != "full" else ["full", "full_low", "full_high"]
        for method in "xyz":
            assert levels.loc[method, ["mean", "low", "high"]].tolist() == summary.loc[method, columns].tolist()
    differences = found.differences[(found.differences["summary"] == "mean") & (found.differences["other"] == "y")]
    for _, row in differences.iterrows():
        own = summary.loc[row["method"], ["minus_reference", "minus_reference_low", "minus_reference_high"]]
        assert row[["difference", "low", "high"]].tolist() == own.tolist()
    assert found.methods == tuple(summary.index)
    assert found.ranks.loc[found.ranks["summary"] == "mean", "mean_rank"].sort_values().tolist() == [1.0, 2.0, 3.0]


def test_ranks_wins_and_probabilities_are_those_of_the_runs() -> None:
    """Of two data sets, one of them with a metric that is better the lower it is, and other combinations."""
    of = {"more": (drawn(1, "xyz", 6, 7), Direction.MAX), "less": (drawn(2, "xyz", 8, 3), Direction.MIN)}
    found = across([study(name, values, mode) for name, (values, mode) in of.items()])
    summaries = {"mean": lambda v, _: v.mean(1), "full": lambda v, _: v[:, -1]}
    summaries["worst"] = lambda v, mode: v.min(1) if mode is Direction.MAX else v.max(1)
    assert set(found.summaries) == set(summaries)
    for name, summary in summaries.items():
        runs = {
            (study, method): mode.sign * summary(values[f"{method} best 1"], mode)
            for study, (values, mode) in of.items()
            for method in "xyz"
        }
        ranks = found.ranks[found.ranks["summary"] == name].set_index("method")
        pairs = found.pairs[found.pairs["summary"] == name].set_index(["method", "other"])
        each = [stats.rankdata([-runs[s, m].mean() for m in "xyz"]) for s in of]
        assert ranks.loc[list("xyz"), "mean_rank"].tolist() == np.mean(each, axis=0).tolist()
        for method in "xyz":
            assert ranks.at[method, "low"] <= ranks.at[method, "mean_rank"] <= ranks.at[method, "high"]
            total = np.zeros(3, dtype=int)
            for other in set("xyz") - {method}:
                us = [stats.mannwhitneyu(runs[s, method], runs[s, other]).statistic for s in of]
                chances = [u / len(runs[s, method]) ** 2 for u, s in zip(us, of, strict=True)]
                row = pairs.loc[(method, other)]
                assert row["probability"] == pytest.approx(np.mean(chances))
                ends = [stats.ttest_rel(runs[s, method], runs[s, other]).confidence_interval() for s in of]
                wins, losses = sum(end.low > 0 for end in ends), sum(end.high < 0 for end in ends)
                counts = [wins, 2 - wins - losses, losses]
                assert row[["wins", "ties", "losses"]].tolist() == counts
                total += counts
            assert ranks.loc[method, ["wins", "ties", "losses"]].tolist() == total.tolist()


def test_nothing_wins_whose_interval_includes_0() -> None:
    sure = np.array([[0.5], [0.6], [0.7], [0.8]]) * np.ones(3)
    values = {"a best 1": sure + 0.1, "b best 1": sure, "c best 1": sure + np.array([[0.1], [0.1], [0.1], [-0.2]])}
    outcomes = across([study("s", values)]).differences.set_index(["summary", "method", "other"])["outcome"]
    assert outcomes["mean", "a", "b"] == "win"
    assert outcomes["mean", "b", "a"] == "loss"
    assert outcomes["mean", "c", "b"] == outcomes["mean", "b", "c"] == "tie"


def test_what_val_put_first_stands_for_a_method() -> None:
    values = drawn(3, "xy", 3, 3)
    values = {"x best 1": values["x best 1"], "x defaults": values["x best 1"] + 0.2, "y defaults": values["y best 1"]}
    levels = across([study("s", values, val={"x best 1": 0.9, "x defaults": 0.8})]).levels
    chosen = levels[levels["summary"] == "mean"].set_index("method")
    assert chosen["config"].to_dict() == {"x": "best 1", "y": "defaults"}
    assert chosen.at["x", "mean"] == pytest.approx(values["x best 1"].mean())


def test_methods_that_not_all_studies_have_are_told_and_not_ranked() -> None:
    found = across([study("s", drawn(4, "wxy", 3, 3)), study("t", drawn(5, "xyz", 3, 3))])
    assert set(found.methods) == set(found.pairs["method"]) == set(found.ranks["method"]) == {"x", "y"}
    assert "not in all studies, and so not ranked: w (s), z (t)" in found.notes
    levels = found.levels[found.levels["summary"] == "mean"].set_index(["study", "method"])
    assert levels["rank"].isna().to_dict() == {key: key[1] in "wz" for key in levels.index}
    assert sorted(levels.loc[("s", ["x", "y"]), "rank"]) == [1.0, 2.0]


def test_without_seeds_in_common_nothing_is_won() -> None:
    values = {"x best 1": np.full((3, 3), 0.9), "y best 1": np.full((3, 3), 0.1)}
    found = across([study("s", values, first_seed={"x best 1": 4})])
    assert set(found.differences["outcome"]) == {"tie"}
    assert "6 of 6 differences have no interval, for want of 2 seeds in common: ties" in found.notes


def test_a_summary_that_a_study_does_not_know_is_left_out() -> None:
    odds = study("s", drawn(6, "xy", 3, 3))
    odds = replace(odds, tags={"deployment": json.dumps({"a": 0.5})})
    worst = study("t", drawn(7, "xy", 3, 3), by="worst")
    found = across([odds, worst])
    assert found.summaries == ("mean", "worst", "full")
    assert "expected is left out: t has none" in found.notes
    looked = (
        "the searches looked for different summaries, s for the mean, t for the worst: methods are ordered by the mean"
    )
    assert looked in found.notes
    assert across([worst]).by == "worst"


def test_what_cannot_be_compared_is_one_line() -> None:
    one, other = study("s", drawn(8, "xy", 3, 3)), study("t", drawn(9, "z", 3, 3))
    with pytest.raises(ValueError, match=r"^s: given twice$"):
        across([one, one])
    with pytest.raises(ValueError, match=r"^no method is in all of these studies: s has x, y; t has z$"):
        across([one, other])
    with pytest.raises(ValueError, match=r"^reference 'z': the methods in all of these studies are x, y$"):
        across([one], reference="z")
    table = pd.concat(
        [one.table, pd.DataFrame([("v", 0, "search", "val", "accuracy", "a", 0.5)], columns=TABLE_COLUMNS)]
    )
    runs = pd.DataFrame([("v", 0, "search", "completed", "x", None, 0, 1.0, "x")], columns=RUN_COLUMNS)
    searched = replace(one, runs=runs.set_index("run"), table=table[table["stage"] == "search"])
    searched.table.loc[len(table)] = ("v", 0, "search", "val", "accuracy_mean", None, 0.5)
    with pytest.raises(ValueError, match=r"^s: nothing is confirmed; `dmr confirm s` gives values on test$"):
        across([searched])
