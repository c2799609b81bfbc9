"""The table of a confirmation, also where runs failed or no test sample has all modalities."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from dmr.analysis.comparison.comparison import compare
from dmr.analysis.results.record_names import COLUMNS, RUN_COLUMNS
from dmr.analysis.results.study_results import StudyResults
from dmr.direction import Direction
from dmr.studies.reporting.confirm_table import confirm_table, confirmed_rows
from dmr.studies.reporting.study_note import study_note
from dmr.studies.stages.confirm_stage import NO_TRIAL, Configuration

CONFIGURATIONS = [
    Configuration("a", "best 1", 0, {}),
    Configuration("b", "best 1", 1, {}),
    Configuration("c", "defaults", NO_TRIAL, {}),
]
SEEDS = range(1, 4)


def study(names: tuple[str, ...], objective: str = "val/accuracy_mean") -> StudyResults:
    """`a` is better in the mean, `b` in its worst combination, and `c` has failed; seed 9 is of an earlier time.

    Without the value of both modalities, combinations cannot be compared: there is no worst.
    """
    runs, rows = [], []
    for trial, (method, values) in enumerate({"a": (0.4, 0.8, 0.9), "b": (0.6, 0.6, 0.5)}.items()):
        for seed in (*SEEDS, 9):
            start = (f"{method}{seed}", trial, "confirm", "completed", method)
            runs.append((*start, "best 1", seed, 1.0, method))
            each = zip(names, values, strict=False)
            rows += [(*start, seed, "test", "accuracy", name, value + seed / 100) for name, value in each]
    return StudyResults(
        study="s",
        dataset="d",
        modalities=("x", "y"),
        objectives=({"metric": objective, "mode": Direction.MAX},),
        searched=(),
        main_metric="accuracy",
        main_mode=Direction.MAX,
        combinations="all 3",
        parent_run_id="p",
        tags={"deployment": '{"x": 0.5, "y": 0.5}'},
        runs=pd.DataFrame(runs, columns=list(RUN_COLUMNS)).set_index("run"),
        table=pd.DataFrame(rows, columns=list(COLUMNS)),
    )


def shown(results: StudyResults) -> list[list[str]]:
    console = Console(width=160)
    with console.capture() as captured:
        console.print(confirm_table(results, confirmed_rows(results, CONFIGURATIONS, SEEDS)))
    return [line.split() for line in captured.get().splitlines() if line.strip() and "─" not in line]


def test_what_is_not_known_is_a_dash() -> None:
    title, head, a, b, c = shown(study(("x", "y")))
    assert " ".join(title) == "s: confirmed on test, accuracy over 2 of 3 combinations, best mean first"
    assert " ".join(head) == "method config trial seeds mean 95 % interval worst full expected"
    half = 2 * 4.30265 / 100 / 3**0.5 / 2  # t(0.975, 2) s / √3 with s = 0.01
    assert a == ["a", "best", "1", "0", "3", "0.6200", f"{0.62 - half:.4f}–{0.62 + half:.4f}", "-", "-", "0.6200"]
    assert b[:2] == ["b", "best"]
    assert c == ["c", "defaults", "-", "0", "-", "-", "-", "-", "-"]
    empty = replace(study(()), runs=study(()).runs.iloc[:0])
    assert [row[-1] for row in shown(empty)[-3:]] == ["-"] * 3


@pytest.mark.parametrize(("by", "first"), [("mean", "a"), ("worst", "b"), ("full", "a"), ("expected", "a")])
def test_the_rows_are_those_of_a_comparison(by: str, first: str) -> None:
    """By what the search looked for, on the screen and in the note of the study's run."""
    results = study(("x", "y", "x-y"), f"val/accuracy_{by}")
    found = confirmed_rows(results, CONFIGURATIONS, SEEDS)
    assert (found.by, found.rows[0].configuration.method) == (by, first)
    now = results.runs["seed"].isin(SEEDS)
    table = results.table[results.table["seed"].isin(SEEDS)]
    summary = compare([replace(results, runs=results.runs[now], table=table)], samples=lambda _: None).summary
    for row in found.rows[:2]:
        expected = summary.loc[f"{row.configuration.method} best 1"]
        for name, interval in row.levels.items():
            prefix = "" if name == "mean" else f"{name}_"
            assert tuple(interval)[:3] == tuple(expected[[name, f"{prefix}low", f"{prefix}high"]])
    title, _, row, *_ = shown(results)
    assert title[-3:] == ["best", by, "first"]
    assert row[0] == first
    assert row[5] == f"{found.rows[0].levels[by].estimate:.4f}"
    note = study_note(replace(results, runs=results.runs.iloc[:0], table=results.table.iloc[:0]), "1", found)
    assert f"### Confirmed on test: accuracy over all 3 combinations, best {by} first" in note
    line = next(line for line in note.splitlines() if line.startswith(f"| `{first}`"))
    assert line.split(" | ")[4:6] == row[5:7]
    assert np.isfinite(found.rows[0].levels[by].low)
