"""What a search of n trials is expected to find: of each block, or method, the best on val of n of its N trials.

Letters: N trials, n of them drawn, S seeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from dmr.analysis.comparison.comparison import Comparison
from dmr.analysis.comparison.entries import Split, covered_words
from dmr.analysis.order_statistics import chances_to_be_best
from dmr.analysis.results.record_names import counted, summary_metric
from dmr.analysis.results.study_results import (
    StudyResults,
    combination_values,
    complete_words,
    methods_of,
    stopped_trials,
    trial_values,
)
from dmr.analysis.statistics import Floats, mean_interval
from dmr.direction import Direction

Point = tuple[int, int, int, float, float, float]  # n, N, S, expected, low, high
Row = tuple[str, str, int, int, int, float, float, float]  # study, block or method, and a point

MOST = 1_000  # points of a curve
MIDDLE = np.array([0.1, 0.9])  # of all choices of n trials
ROUNDING = 1e-12  # of sums of chances


@dataclass(frozen=True)
class TuningCurves:
    """Expected values of the best of n trials.

    Attributes:
        frame: one row per curve and n: study, method, split, metric, trials (n), of (N), seeds, expected, low, high. On
            test low and high are the ends of the 95 % t interval over seeds; on val, where each trial has one seed,
            what the best is between in the middle 80 % of all choices of n trials.
        split: `test` where every trial of every block has confirmed runs, else `val`.
        chosen_by: the objective, on val, by which the best of n is chosen.
        covered: the combinations, and the samples if some lack modalities, that the metric is of, in words.
        notes: what a reader has to know of the trials.
    """

    frame: pd.DataFrame
    split: Split
    metric: str
    chosen_by: str
    mode: Direction
    covered: str
    notes: tuple[str, ...]


def tuning_curves(searches: Sequence[StudyResults], comparison: Comparison | None) -> TuningCurves:
    """The curves of the searches of studies of the same data and objective: exact over all orders in which the trials
    of a block could have come. Those of a sampler that learns came in an order of their own.

    On test a trial is worth the mean of its confirmed runs, over the seeds that all trials of its block have; of trials
    that are equal on val, each is as likely to be the one that is chosen.

    Args:
        comparison: of these studies, where there is one.

    Raises:
        ValueError: no trial has values, or the studies have different objectives.
    """
    objective = searches[0].objectives[0]
    for one in searches:
        if one.objectives[0] != objective:
            raise ValueError(f"{searches[0].study} and {one.study} searched for different objectives")
        if trial_values(one).empty:
            raise ValueError(f"study {one.study}: no trial has values to draw yet")
    blocks = [(one.study, method, values) for one in searches for method, values in _by_method(one)]
    notes = tuple(note for one in searches for note in _notes(one, several=len(searches) > 1))
    chosen_by, first = objective["metric"], searches[0]
    rows = None if comparison is None else _on_test(blocks, comparison)
    if comparison is not None and rows is not None:
        metric = summary_metric(comparison.metric, comparison.by)
        covered = _covered(comparison.combinations_text, comparison.samples_text)
        return TuningCurves(_frame(rows, "test", metric), "test", metric, chosen_by, comparison.mode, covered, notes)
    metric = chosen_by.partition("/")[2]
    rows = [(study, name, *at) for study, name, values in blocks for at in _val_points(values.to_numpy()[::-1])]
    covered = _covered(covered_words(first, combination_values(first).shape[1]), complete_words(first, "val"))
    notes = ("on test once every trial is confirmed: dmr confirm NAME --top N", *notes)
    return TuningCurves(_frame(rows, "val", metric), "val", metric, chosen_by, objective["mode"], covered, notes)


def _covered(combinations: str, samples: str) -> str:
    return f"{combinations} combinations{f', of {samples}' if samples else ''}"


def _frame(rows: list[Row], split: Split, metric: str) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=["study", "method", "trials", "of", "seeds", "expected", "low", "high"])
    frame.insert(2, "split", split)
    frame.insert(3, "metric", metric)
    return frame


def _by_method(search: StudyResults) -> list[tuple[str, pd.Series]]:
    """Each block or method, with the first objective on val of its trials, best first: index trial."""
    values = trial_values(search)[search.objectives[0]["metric"]]
    return [(str(name), own) for name, own in values.groupby(methods_of(search)[values.index], sort=False)]


def _on_test(blocks: Sequence[tuple[str, str, pd.Series]], comparison: Comparison) -> list[Row] | None:
    """The rows of all blocks; None where a trial of one has no confirmed run, or its trials no seed in common."""
    if comparison.split != "test":
        return None
    entries = {(entry.study, entry.trial): entry for entry in comparison.entries}
    rows: list[Row] = []
    for study, method, values in blocks:
        keys = [(study, trial) for trial in values.index[::-1].tolist()]
        if not entries.keys() >= set(keys):
            return None
        seeds = sorted(set.intersection(*(set(entries[key].seeds) for key in keys)))
        if not seeds:
            return None
        table = pd.DataFrame([comparison.measure.of_seeds(entries[key], seeds) for key in keys])
        by_val = table.groupby(values.to_numpy()[::-1]).transform("mean").to_numpy()  # (N, S)
        rows += [(study, method, *point) for point in _test_points(by_val)]
    return rows


def _test_points(values: Floats) -> list[Point]:
    """Of values (N, S), the worst on val first."""
    count, seeds = values.shape
    found = [(n, mean_interval(chances_to_be_best(count, n) @ values)) for n in _numbers(count)]
    return [(n, count, seeds, one.estimate, one.low, one.high) for n, one in found]


def _val_points(values: Floats) -> list[Point]:
    """Of values (N,), the worst first."""
    count, points = len(values), []
    for n in _numbers(count):
        chances = chances_to_be_best(count, n)
        ends = values[np.searchsorted(np.cumsum(chances), MIDDLE - ROUNDING)]
        points.append((n, count, 1, float(chances @ values), float(ends.min()), float(ends.max())))
    return points


def _numbers(count: int) -> list[int]:
    """1 to N, of very many some."""
    numbers: list[int] = np.unique(np.linspace(1, count, min(count, MOST)).round().astype(int)).tolist()
    return numbers


def _notes(search: StudyResults, several: bool) -> list[str]:
    whose = f"{search.study}: " if several else ""
    early = len(stopped_trials(search))
    without = search.runs["trial"].nunique() - len(trial_values(search))
    notes = []
    if early:
        notes.append(f"{whose}{counted(early, 'trial')} stopped early, with what val had then")
    if without:
        notes.append(f"{whose}{counted(without, 'trial')} without values left out")
    return notes
