"""Methods and configurations by combinations: mean over seeds, and the difference to the reference.

Letters: E entries, S seeds, C combinations.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats

from analysis.compare import Comparison, Entry
from analysis.drawing import seeds_text
from analysis.heatmap import HeatmapTable
from analysis.trials import summaries

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
    rows = {entry.label: np.nanmean(entry.values, axis=0) for entry in shown}
    cells = pd.DataFrame.from_dict(rows, orient="index", columns=list(comparison.combinations.names))
    seeds = seeds_text([len(entry.seeds) for entry in shown])
    return HeatmapTable(
        cells=cells,
        summaries=summaries(cells, comparison.mode),
        modalities=comparison.combinations.modalities,
        metric=comparison.metric,
        better=comparison.mode,
        title=f"{', '.join(comparison.studies)}: {comparison.metric} by method and combination",
        subtitle=f"data {comparison.dataset}, split {comparison.split}; mean over {seeds}; "
        f"{_count(comparison, shown)}, best mean first; {comparison.combinations_text} combinations",
    )


def method_difference_table(comparison: Comparison) -> HeatmapTable:
    """The mean difference of each entry to the reference, best first.

    Raises:
        ValueError: there is no entry but the reference.
    """
    by_label = {entry.label: entry for entry in comparison.entries}
    if comparison.reference not in by_label:
        raise ValueError(f"there is no entry {comparison.reference!r} to compare with")
    reference = by_label[comparison.reference]
    shown = [entry for entry in _shown(comparison) if entry.label != reference.label]
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
    seeds = seeds_text([len(set(entry.seeds) & set(reference.seeds)) for entry in shown])
    return HeatmapTable(
        cells=cells,
        summaries=pd.DataFrame({"mean": [float(one.mean[0]) for one in means]}, cells.index),
        modalities=comparison.combinations.modalities,
        metric=f"difference of {comparison.metric}",
        better=comparison.mode,
        title=f"{', '.join(comparison.studies)}: {comparison.metric} less that of {reference.label}",
        subtitle=f"data {comparison.dataset}, split {comparison.split}; mean difference over {seeds} in common; "
        f"{_count(comparison, shown)}, best mean first; {comparison.combinations_text} combinations; {how}",
        difference=True,
        muted=~told if several else None,
        muted_summaries=~told_means if several else None,
    )


def difference(entry: Entry, reference: Entry) -> Difference:
    """Of two entries, paired by the seeds they have in common, with Student's t interval: mean ± t(S − 1) s / √S.

    Without a seed in common it is the difference of their means, without an interval.
    """
    common = sorted(set(entry.seeds) & set(reference.seeds))
    nothing = np.full(entry.values.shape[1], np.nan)
    if not common:
        return Difference(np.nanmean(entry.values, axis=0) - np.nanmean(reference.values, axis=0), nothing, nothing)
    one, other = (e.values[[e.seeds.index(seed) for seed in common]] for e in (entry, reference))
    pairs = one - other
    mean = pairs.mean(axis=0)
    if len(common) == 1:
        return Difference(mean, nothing, nothing)
    reach = stats.t.ppf(0.975, len(common) - 1) * pairs.std(axis=0, ddof=1) / np.sqrt(len(common))
    return Difference(mean, mean - reach, mean + reach)


def _mean(entry: Entry) -> Entry:
    """Its mean over combinations as if that were the only one."""
    return replace(entry, values=entry.values.mean(axis=1, keepdims=True))


def _shown(comparison: Comparison) -> list[Entry]:
    if not comparison.entries:
        raise ValueError(f"data {comparison.dataset}: there is no configuration with values to compare")
    return list(comparison.entries[:MOST_ROWS])


def _count(comparison: Comparison, shown: list[Entry]) -> str:
    total = len(comparison.entries)
    return f"{len(shown)} of {total} configurations" if len(shown) < total else f"{total} configurations"
