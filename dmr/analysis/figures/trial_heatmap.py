"""Trials by combinations: values, or differences to one trial or to the file's defaults."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd

from dmr.analysis.comparison.entries import covered_words
from dmr.analysis.figures.combination_heatmap import HeatmapTable, draw_heatmap
from dmr.analysis.figures.style import check_target, save_figure
from dmr.analysis.results.record_names import DEFAULTS, counted
from dmr.analysis.results.study_results import (
    StudyResults,
    combination_values,
    complete_samples,
    complete_words,
    methods_of,
    stopped_trials,
    trial_labels,
    trial_values,
)
from dmr.direction import Direction


def heatmap_table(results: StudyResults, top: int, split: str = "val") -> HeatmapTable:
    """The best `top` trials of a study.

    Raises:
        ValueError: no trial has values.
    """
    values = combination_values(results, split)
    order = trial_values(results).index.intersection(values.index, sort=False)
    if order.empty:
        raise ValueError(f"study {results.study}: no trial has values to draw yet")
    shown, names = order[:top], trial_labels(results)
    cells, compared = (
        of.loc[shown].rename(index=names) for of in (values, combination_values(results, split, complete=True))
    )
    return HeatmapTable(
        cells=cells,
        summaries=summaries(compared, results.main_mode, complete_samples(results, split) != 0),
        modalities=results.modalities,
        metric=results.main_metric,
        better=results.main_mode,
        title=f"{results.study}: {results.main_metric} by combination of modalities",
        subtitle=f"{_shown_text(results, split, len(shown), values)}; one seed per trial"
        f"{complete_text(results, split)}{_stopped_note(results, shown)}",
    )


def difference_table(
    results: StudyResults, top: int, reference: int | str, defaults: dict[str, int] | None = None, split: str = "val"
) -> HeatmapTable:
    """The best `top` trials, less the trial `reference`, or each less the `defaults` of its method.

    Args:
        defaults: the trial with the file's defaults, by method.

    Raises:
        ValueError: no trial has values, or there is nothing to compare with.
    """
    table = heatmap_table(results, len(results.runs), split)
    values = combination_values(results, split)
    order = trial_values(results).index.intersection(values.index, sort=False)
    methods = methods_of(results)
    if reference == DEFAULTS:
        known = {method: trial for method, trial in (defaults or {}).items() if trial in values.index}
        if not known:
            raise ValueError(
                f"study {results.study}: it is not known which trial has the file's defaults: confirm the study, or "
                "name a trial"
            )
        against = pd.Series({trial: known.get(methods[trial], -1) for trial in order})
        text = "less the trial with the file's defaults" + (" of its method" if methods.nunique() > 1 else "")
    else:
        if reference not in values.index:
            raise ValueError(f"study {results.study}: trial {reference} has no values; {_some(order)} have")
        against = pd.Series(int(reference), index=order)
        text = f"less trial {reference}"
    stopped = stopped_trials(results)
    shown = against[(against >= 0) & (against != against.index)].index[:top]
    if shown.empty:
        raise ValueError(f"study {results.study}: there is no other trial to compare with")
    early = "".join(
        f"; trial {trial}, which is taken away, was stopped early ({stopped[trial]})"
        for trial in against[shown].unique()
        if trial in stopped
    )
    compared = combination_values(results, split, complete=True)
    cells, means = (of.loc[shown] - of.loc[against[shown]].to_numpy() for of in (values, compared))
    cells = cells.rename(index=trial_labels(results))
    metric = results.main_metric
    return replace(
        table,
        cells=cells,
        summaries=pd.DataFrame({"mean": means.mean(axis=1).to_numpy()}, cells.index),
        difference=True,
        metric=f"difference of {metric}",
        title=f"{results.study}: {metric} by combination, {text}",
        subtitle=f"{_shown_text(results, split, len(shown), values)}; one seed per trial, so that no interval says "
        "which differences are chance"
        f"{complete_text(results, split)}{_stopped_note(results, shown)}{early}",
    )


def write_heatmap(
    results: StudyResults,
    path: Path,
    top: int = 24,
    difference_to: int | str | None = None,
    defaults: dict[str, int] | None = None,
) -> Path:
    """Draw the best `top` trials to a .png, .svg or .pdf file; the file is there whole or not at all.

    Raises:
        ValueError: another ending, no such directory, no trial has values, or nothing to compare with.
    """
    check_target(path)
    if difference_to is None:
        return save_figure(draw_heatmap(heatmap_table(results, top)), path)
    return save_figure(draw_heatmap(difference_table(results, top, difference_to, defaults)), path)


def _shown_text(results: StudyResults, split: str, shown: int, values: pd.DataFrame) -> str:
    """Which trials and combinations are shown, of the values of all trials: index trial, columns combinations."""
    trials = counted(len(trial_values(results).index.intersection(values.index)), "trial")
    return (
        f"data {results.dataset}, split {split}; {shown} of {trials} with values, best first by "
        f"{results.objectives[0]['metric']}; {covered_words(results, values.shape[1])} combinations"
    )


def _stopped_note(results: StudyResults, shown: pd.Index) -> str:
    """What to say where some of these trials were stopped early."""
    count = len(set(shown) & set(stopped_trials(results)))
    return f"; {count} stopped early, after fewer epochs than the others" if count else ""


def summaries(cells: pd.DataFrame, mode: Direction, comparable: bool = True) -> pd.DataFrame:
    """Mean and worst over the combinations of each row; no worst where no sample has all modalities."""
    found = pd.DataFrame({"mean": cells.mean(axis=1)})
    if not comparable:
        return found
    return found.assign(worst=cells.min(axis=1) if mode is Direction.MAX else cells.max(axis=1))


def complete_text(results: StudyResults, split: str) -> str:
    """Which samples the summaries are of, where some lack modalities."""
    words = complete_words(results, split)
    return f"; summaries: of {words}" if words else ""


def _some(trials: pd.Index) -> str:
    return ", ".join(str(trial) for trial in trials[:8]) + (", ..." if len(trials) > 8 else "")
