"""Full against worst: which trials no other one beats in both.

Letters: N points.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from dmr.analysis.comparison.comparison import Comparison
from dmr.analysis.comparison.entries import covered_words
from dmr.analysis.figures import style
from dmr.analysis.figures.trial_heatmap import summaries
from dmr.analysis.results.record_names import DEFAULTS, counted
from dmr.analysis.results.study_results import (
    StudyResults,
    combination_values,
    complete_words,
    methods_of,
    stopped_trials,
    trial_values,
)
from dmr.analysis.statistics import pareto_front
from dmr.combinations import combination_name
from dmr.direction import Direction


@dataclass(frozen=True)
class Points:
    """Index label; columns full and worst, method, front, role (`best`, `defaults`, both or neither), stopped (early:
    its values are of fewer epochs), and the ends of intervals full_low, full_high, worst_low, worst_high, NaN where
    there are none.
    """

    frame: pd.DataFrame
    heading: str
    metric: str
    mode: Direction


def trial_points(results: StudyResults, defaults: dict[str, int], split: str = "val") -> Points:
    """Of each trial of a search.

    Raises:
        ValueError: no trial has values, or no sample has all modalities.
    """
    values, best = combination_values(results, split, complete=True), trial_values(results)
    full = combination_name(results.modalities, results.modalities)
    if values.empty:
        raise ValueError(f"study {results.study}: no trial has values to draw yet")
    if full not in values or values[full].isna().all():
        raise ValueError(f"data {results.dataset}: no sample of {split} has all modalities")
    methods = methods_of(results)
    frame = pd.DataFrame({"full": values[full], "worst": summaries(values, results.main_mode)["worst"]}).dropna()
    frame["method"] = methods[frame.index]
    frame["front"] = pareto_front(results.main_mode.sign * frame[["full", "worst"]])
    frame["stopped"] = frame.index.isin(list(stopped_trials(results)))
    frame["role"] = ""
    for method, trial in defaults.items():
        if trial in frame.index and methods.get(trial) == method:
            frame.loc[trial, "role"] = DEFAULTS
    if len(best) and best.index[0] in frame.index:
        frame.loc[best.index[0], "role"] += " best"
    stopped = f", {frame['stopped'].sum()} of them stopped early" if frame["stopped"].any() else ""
    heading = f"search: {counted(len(frame), 'trial')}{stopped}, split {split}, one seed per trial, "
    heading += f"{covered_words(results, values.shape[1])} combinations{_of(complete_words(results, split))}"
    return Points(
        _with_ends(frame.set_axis([str(trial) for trial in frame.index])),
        heading,
        results.main_metric,
        results.main_mode,
    )


def entry_points(comparison: Comparison, best: str) -> Points:
    """Of each configuration: means over seeds, with intervals where there are several.

    Args:
        best: the label of the configuration that val chose. What is best on test was chosen by luck as well.

    Raises:
        ValueError: no sample has all modalities.
    """
    rows = []
    for entry in comparison.entries:
        found = comparison.measure.levels(entry)
        if "full" not in found:
            raise ValueError(f"data {comparison.dataset}: no sample of {comparison.split} has all modalities")
        x, y = found["full"], found["worst"]
        role = (DEFAULTS if entry.is_defaults else "") + (" best" if entry.label == best else "")
        rows.append((entry.label, x.estimate, y.estimate, entry.method, role, x.low, x.high, y.low, y.high))
    columns = ["label", "full", "worst", "method", "role", "full_low", "full_high", "worst_low", "worst_high"]
    frame = pd.DataFrame(rows, columns=columns).set_index("label")
    frame["stopped"] = False
    frame["front"] = pareto_front(comparison.mode.sign * frame[["full", "worst"]])
    seeds = style.seeds_text([len(entry.seeds) for entry in comparison.entries] or [1])
    heading = f"confirmed: {counted(len(frame), 'configuration')}, split {comparison.split}, {seeds}, "
    heading += f"{comparison.combinations_text} combinations{_of(comparison.samples_text)}"
    return Points(frame, heading, comparison.metric, comparison.mode)


def _of(samples: str) -> str:
    return f", of {samples}" if samples else ""


def _with_ends(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(**dict.fromkeys(("full_low", "full_high", "worst_low", "worst_high"), np.nan))
