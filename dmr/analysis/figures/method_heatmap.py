"""Methods and configurations by combinations: mean over seeds, and the difference to the reference.

Letters: E entries, S seeds, C combinations.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from dmr.analysis.comparison.comparison import Comparison, Entry
from dmr.analysis.comparison.paired_tests import common_seeds, paired_values
from dmr.analysis.figures.combination_heatmap import HeatmapTable
from dmr.analysis.figures.style import seeds_text
from dmr.analysis.results.record_names import counted
from dmr.analysis.statistics import mean_interval

MOST_ROWS = 48


class Difference(NamedTuple):
    """Mean difference (C,) to the reference, and the ends of its 95 % interval, NaN where there is none."""

    mean: npt.NDArray[np.float64]
    low: npt.NDArray[np.float64]
    high: npt.NDArray[np.float64]


def method_table(comparison: Comparison) -> HeatmapTable:
    """The mean over seeds of each entry, best first.

    Raises:
        ValueError: there are no entries.
    """
    shown = _shown(comparison)
    names = list(comparison.combinations.names)
    rows = {entry.label: entry.own_values.mean(axis=0) for entry in shown}
    cells = pd.DataFrame.from_dict(rows, orient="index", columns=names)
    found = {entry.label: entry.summaries(comparison.combinations, comparison.mode) for entry in shown}
    seeds = seeds_text([len(entry.seeds) for entry in shown])
    return HeatmapTable(
        cells=cells,
        summaries=pd.DataFrame(
            {name: {label: one[name].mean() for label, one in found.items()} for name in ("mean", "worst")}
        ).dropna(axis="columns"),
        modalities=comparison.combinations.modalities,
        metric=comparison.metric,
        better=comparison.mode,
        title=f"{', '.join(comparison.studies)}: {comparison.metric} by method and combination",
        subtitle=f"data {comparison.dataset}, split {comparison.split}; mean over {seeds}; "
        f"{_count(comparison, shown)}, best {comparison.by} first; {comparison.combinations_text} combinations"
        f"{_complete_text(comparison)}",
    )


def method_difference_table(comparison: Comparison) -> HeatmapTable:
    """The mean difference to the reference of each entry that has seeds in common with it, best first.

    Raises:
        ValueError: there is no such entry.
    """
    reference = comparison.entry(comparison.reference)
    shown = [entry for entry in _shown(comparison) if entry is not reference and common_seeds(entry, reference)]
    if not shown:
        raise ValueError(f"there is nothing to compare with {reference.label}")
    found = {entry.label: difference(entry, reference) for entry in shown}
    means = [difference(_mean(entry), _mean(reference)) for entry in shown]
    names = list(comparison.combinations.names)
    cells = pd.DataFrame.from_dict({label: one.mean for label, one in found.items()}, orient="index", columns=names)
    told, told_means = (np.stack([(d.low > 0) | (d.high < 0) for d in ds]) for ds in (found.values(), means))
    several = any(np.isfinite(one.low).any() for one in found.values())
    how = (
        "nearly grey where the 95 % t interval of the paired difference over seeds, each cell by itself, includes 0"
        if several
        else "one seed, so that no interval says which differences are chance"
    )
    seeds = seeds_text([len(common_seeds(entry, reference)) for entry in shown])
    return HeatmapTable(
        cells=cells,
        summaries=pd.DataFrame({"mean": [float(one.mean[0]) for one in means]}, cells.index),
        modalities=comparison.combinations.modalities,
        metric=f"difference of {comparison.metric}",
        better=comparison.mode,
        title=f"{', '.join(comparison.studies)}: {comparison.metric} less that of {reference.label}",
        subtitle=f"data {comparison.dataset}, split {comparison.split}; mean difference over {seeds} in common; "
        f"{_count(comparison, shown)}, best {comparison.by} first; {comparison.combinations_text} combinations; {how}"
        f"{_complete_text(comparison)}",
        difference=True,
        muted=~told if several else None,
        muted_summaries=~told_means if several else None,
    )


def difference(entry: Entry, reference: Entry) -> Difference:
    """Of two entries, paired by the seeds they have in common; one seed has no interval."""
    one, other = paired_values(entry, reference, own=True)
    found = np.array([mean_interval(pairs)[:3] for pairs in (one - other).T])
    return Difference(*found.T)


def _mean(entry: Entry) -> Entry:
    """Its mean over combinations as if that were the only one."""
    return replace(entry, own_values=entry.values.mean(axis=1, keepdims=True))


def _shown(comparison: Comparison) -> list[Entry]:
    if not comparison.entries:
        raise ValueError(f"data {comparison.dataset}: there is no configuration with values to compare")
    return list(comparison.entries[:MOST_ROWS])


def _complete_text(comparison: Comparison) -> str:
    return f"; summaries: of {comparison.samples_text}" if comparison.samples_text else ""


def _count(comparison: Comparison, shown: list[Entry]) -> str:
    total = counted(len(comparison.entries), "configuration")
    return f"{len(shown)} of {total}" if len(shown) < len(comparison.entries) else total
