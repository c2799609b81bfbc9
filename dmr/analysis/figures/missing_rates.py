"""What models trained in one way are worth when sensors fail at another rate: training side by missing rate in use.

Letters: C combinations, G groups, T rates.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.figure import Figure

from dmr.analysis.comparison.comparison import Comparison
from dmr.analysis.comparison.entries import covered_words
from dmr.analysis.figures import style
from dmr.analysis.figures.combination_heatmap import BAR, ROW, draw_bar, draw_cells, header, scale_of
from dmr.analysis.figures.style import GREY, HEADER, LABEL_LINE, LABEL_SIZE, MARGIN, PAD, SMALL_SIZE, text_width
from dmr.analysis.results.record_names import Tag, counted
from dmr.analysis.results.study_results import (
    StudyResults,
    combination_values,
    complete_words,
    methods_of,
    stopped_trials,
)
from dmr.combinations import Combinations, all_combinations, deployment_weights
from dmr.direction import Direction

RATES = tuple(round(0.1 * step, 1) for step in range(10))
SAMPLING = ("sampling.strategy", "sampling.keep_prob", "sampling.full_prob", "missing.train")
BINS, CELL = 4, 0.5
IN_USE = "in use"


@dataclass(frozen=True)
class RateTable:
    """Indexed by how they were trained, one column per rate (G, T) and perhaps one `in use`, where each modality has a
    rate of its own; and what to say about it.
    """

    cells: pd.DataFrame
    metric: str
    mode: Direction
    title: str
    subtitle: str


def expected_at(
    values: npt.ArrayLike, combinations: Combinations, rates: Sequence[float | Mapping[str, float]] = RATES
) -> npt.NDArray[np.float64]:
    """Expected value (..., T) from values (..., C) when each modality is missing with the rate, or with its own (0 if
    not named), independently of the others, given that one of `combinations` is met. NaN where none can be: with rate
    0, if the full one is not there.

    Raises:
        ValueError: a rate of an unknown modality, or outside [0, 1].
    """
    weights: npt.NDArray[np.float64] = np.full((len(rates), len(combinations)), np.nan)
    for row, rate in zip(weights, rates, strict=True):
        own = rate if isinstance(rate, Mapping) else dict.fromkeys(combinations.modalities, rate)
        odds = {name: 1.0 - value for name, value in own.items()}
        works = np.array([odds.get(name, 1.0) for name in combinations.modalities])
        if np.where(combinations.masks, works, 1.0 - works).prod(axis=1).any():
            row[:] = deployment_weights(combinations, odds)
    return np.asarray(np.asarray(values, dtype=np.float64) @ weights.T)


def rate_table(
    results: StudyResults, comparison: Comparison | None, in_use: Mapping[str, float] | None = None
) -> RateTable:
    """By how trials drew combinations, or which samples they missed, where the search varied that; else the confirmed
    configurations; else the best trials.

    Args:
        in_use: how often each modality is missing in use, 0 where it is not named; else what the study's `deployment`
            says. Without either there is no such column.

    Raises:
        ValueError: no trial has values of the combinations.
    """
    searched = [key for key in SAMPLING if key in results.searched]
    own, whose = (in_use, "as asked") if in_use is not None else (_deployed(results), "the study's `deployment`")
    rates: list[float | Mapping[str, float]] = [*RATES, *([own] if own else [])]
    columns: list[float | str] = [*RATES, *([IN_USE] if own else [])]
    if searched:
        cells, text, combinations = _by_sampling(results, searched, rates)
        split = "val"
    elif comparison is not None and comparison.entries:
        entries = comparison.entries[:24]
        split, combinations = comparison.split, comparison.combinations
        means = {entry.label: expected_at(entry.values.mean(axis=0), combinations, rates) for entry in entries}
        cells = pd.DataFrame.from_dict(means, orient="index")
        text = (
            "one row per configuration, best first, because the search did not vary how combinations "
            f"are drawn; mean over {style.seeds_text([len(entry.seeds) for entry in entries])}"
        )
    else:
        values, combinations, others = _complete_values(results)
        groups = methods_of(results)[values.index]
        cells = pd.DataFrame(expected_at(values, combinations, rates), values.index).groupby(groups).median()
        counts = groups.value_counts()
        cells.index = [f"{method} ({counted(counts[method], 'trial')})" for method in cells.index]
        split = "val"
        text = (
            f"one row per method, median over its trials{others}, because the search did not vary how combinations "
            "are drawn; one seed per trial"
        )
    cells.columns = pd.Index(columns, dtype=object)
    covered, samples = covered_words(results, len(combinations)), complete_words(results, split)
    text += f"; of {samples}" if samples else ""
    if cells[0.0].isna().all():
        text += f"; no value for rate 0, since no sample of {split} has all modalities"
    names = ", ".join(comparison.studies) if comparison is not None and not searched else results.study
    each = ", ".join(f"{name} {rate:.3g}" for name, rate in (own or {}).items() if rate > 0)
    use = f"; {IN_USE} ({whose}): missing with {each or 'rate 0'}" if own else ""
    return RateTable(
        cells,
        results.main_metric,
        results.main_mode,
        f"{names}: {results.main_metric} expected when sensors fail",
        f"data {results.dataset}, split {split}; {text}; columns: each modality is missing with this rate, "
        f"independently, given that one of {covered} combinations is met{use}; bold: best of a column",
    )


def _deployed(results: StudyResults) -> dict[str, float]:
    """How often each modality is missing by the odds of the study file; empty where it has none."""
    odds: dict[str, float] = json.loads(results.tags.get(Tag.DEPLOYMENT, "{}"))
    return {name: 1.0 - chance for name, chance in odds.items()}


def _by_sampling(
    results: StudyResults, searched: list[str], rates: Sequence[float | Mapping[str, float]]
) -> tuple[pd.DataFrame, str, Combinations]:
    values, combinations, others = _complete_values(results)
    points = results.table.drop_duplicates("trial").set_index("trial").loc[values.index, searched]
    binned = {key: _binned(points[key]) for key in searched}
    methods = methods_of(results)[values.index]
    by = ["method", *searched] if methods.nunique() > 1 else searched
    groups = []
    for trial, method in zip(values.index, methods, strict=True):
        parts = [(key, *found[trial]) for key, found in binned.items() if trial in found]
        label = ", ".join(name if key == SAMPLING[0] else f"{_short(key)} {name}" for key, _, name in parts)
        label = label or "as in the file"
        if by != searched:
            parts, label = [("", method, ""), *parts], f"{method}, {label}"
        groups.append((tuple((key, place) for key, place, _ in parts), label))
    expected = pd.DataFrame(expected_at(values, combinations, rates), values.index)
    labels = pd.Series([label for _, label in groups], values.index)
    counts = labels.value_counts()
    cells = expected.groupby(labels).median().loc[list(dict.fromkeys(label for _, label in sorted(groups)))]
    cells.index = [f"{label} ({counted(counts[label], 'trial')})" for label in cells.index]
    return cells, f"rows: trials{others} by {', '.join(by)}, median over trials; one seed per trial", combinations


def _binned(column: pd.Series) -> dict[int, tuple[float | str, str]]:
    """Of each trial with a value: what it, or the quantile bin it falls in, is sorted by, and its name."""
    known = column.dropna()
    trials = known.index.tolist()
    if not pd.api.types.is_numeric_dtype(known):
        return {trial: (value, value) for trial, value in zip(trials, known.astype(str), strict=True)}
    if known.nunique() <= BINS:
        return {trial: (value, f"{value:.3g}") for trial, value in zip(trials, known.astype(float), strict=True)}
    bins = pd.qcut(known, min(BINS, max(1, len(known) // 3)), duplicates="drop")
    low, high = (known.groupby(bins, observed=True).agg(end) for end in ("min", "max"))
    return {
        trial: (float(low[own]), f"{low[own]:.2f} to {high[own]:.2f}") for trial, own in zip(trials, bins, strict=True)
    }


def _short(key: str) -> str:
    return key.removeprefix("sampling.")


def _complete_values(results: StudyResults) -> tuple[pd.DataFrame, Combinations, str]:
    """Values of the trials that were trained to their end, their combinations, and what to say of the other trials."""
    found = combination_values(results, complete=True).dropna(axis="columns", how="all").dropna()
    stopped = stopped_trials(results)
    values = found[~found.index.isin(list(stopped))]
    if values.empty:
        those = " that was not stopped early" if len(found) else ""
        raise ValueError(f"study {results.study}: no trial{those} has values of its combinations yet")
    every = all_combinations(results.modalities)
    members = tuple(m for m, name in zip(every.members, every.names, strict=True) if name in values)
    early = len(found) - len(values)
    return values, Combinations(every.modalities, members), style.complete_trials_text(early)


def draw_rates(table: RateTable) -> Figure:
    """The grid; the best of each column is bold."""
    (rows, columns), mode = table.cells.shape, table.mode
    labels = [style.worded(str(label)) for label in table.cells.index]
    caption = "missing rate of each modality in use:"
    left = MARGIN + PAD + max(text_width(text) for text in [*labels, caption])
    label = f"{style.worded(table.metric)} ({style.better_end(mode)})"
    below = BAR + 2 * LABEL_LINE + 2 * PAD
    sheet = style.Sheet(
        left + CELL * columns + MARGIN + PAD, HEADER + ROW * rows + below + MARGIN, table.title, table.subtitle
    )
    body = sheet.top + HEADER
    scale = scale_of(table.cells.to_numpy(dtype=float), mode)
    axes = sheet.add_axes(left, body, CELL * columns, ROW * rows)
    draw_cells(axes, table.cells, scale, "{:.3f}".format if rows else None, SMALL_SIZE)
    best = table.cells.to_numpy()
    best = best.argmax(axis=0) if mode is Direction.MAX else best.argmin(axis=0)
    for text in list(axes.texts):
        column, row = (int(at) for at in text.get_position())
        text.set_fontweight("bold" if rows > 1 and best[column] == row else "normal")
    axes.set_yticks(np.arange(rows) + 0.5, labels, size=LABEL_SIZE)
    for x, rate in enumerate(table.cells):
        header(axes, x + 0.5, rate if isinstance(rate, str) else f"{rate:g}")
    if IN_USE in table.cells:
        axes.axvline(columns - 1, color="white", lw=3)
    axes.annotate(caption, (0, 1), (-4, 4), "axes fraction", "offset points", size=LABEL_SIZE, color=GREY, ha="right")
    draw_bar(
        sheet,
        left,
        body + ROW * rows + PAD,
        max(2.0, text_width(label, SMALL_SIZE)),
        scale,
        label,
        mode is Direction.MIN,
    )
    return sheet.figure
