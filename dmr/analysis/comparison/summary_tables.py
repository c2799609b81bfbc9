"""The two tables of a comparison: one row per entry, and one row per entry and combination. `Comparison` describes
their columns.

Letters: S seeds, C combinations.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd

from dmr.analysis.comparison.entries import Entry, defaults_of
from dmr.analysis.comparison.paired_tests import (
    NO_DIFFERENCE,
    NOT_TESTED,
    SEED,
    Difference,
    SampleTests,
    against,
    difference,
    paired_values,
)
from dmr.analysis.statistics import Floats, holm, interquartile_mean, iqm_interval, mean_interval
from dmr.combinations import Combinations
from dmr.direction import Direction

DEDICATED = "dedicated"


class Relations(NamedTuple):
    """Who is compared with whom.

    Attributes:
        defaults: by label, see `defaults_of`.
        dedicated: the best entry of one network per combination.
        mode: which way the metric is better.
    """

    reference: Entry
    defaults: Mapping[str, Entry]
    dedicated: Entry | None
    mode: Direction


def relations(entries: Sequence[Entry], reference: Entry, mode: Direction, blocks: Collection[str]) -> Relations:
    """Whom each entry is compared with.

    Args:
        entries: best first.
        blocks: names of the studies whose search has blocks.
    """
    found = {entry.label: defaults_of(entry, entries, entry.study in blocks) for entry in entries}
    defaults = {label: own for label, own in found.items() if own is not None}
    return Relations(reference, defaults, next((e for e in entries if e.model == DEDICATED), None), mode)


def summary_frame(
    entries: Sequence[Entry],
    related: Relations,
    tests: Mapping[str, SampleTests],
    combinations: Combinations,
    weights: Floats | None,
) -> pd.DataFrame:
    """The summary of a comparison: one row per entry.

    Args:
        weights: (C,) how likely each combination is met.
    """
    rows = {}
    for entry in entries:
        rows[entry.label] = _level(entry, related.mode, combinations, weights)
        rows[entry.label] |= _differences(entry, related, tests.get(entry.label))
    frame = pd.DataFrame.from_dict(rows, orient="index").rename_axis("label")
    return _with_holm(frame, "p_seeds", "p_samples", "p_defaults")


def combination_frame(
    entries: Sequence[Entry], related: Relations, tests: Mapping[str, SampleTests], combinations: Combinations
) -> pd.DataFrame:
    """One row per entry and combination."""
    rows = [row for entry in entries for row in _rows(entry, related, tests.get(entry.label), combinations)]
    return _with_holm(pd.DataFrame(rows), "p", "p_samples")


def _level(entry: Entry, mode: Direction, combinations: Combinations, weights: Floats | None) -> dict[str, Any]:
    """How good an entry is."""
    summaries = entry.summaries(combinations, mode)
    mean, iqm = mean_interval(summaries["mean"]), iqm_interval(summaries["mean"], SEED)
    level = {
        "study": entry.study,
        "method": entry.method,
        "config": entry.config,
        "trial": entry.trial,
        "seeds": len(entry.seeds),
        "mean": mean.estimate,
        "low": mean.low,
        "high": mean.high,
        "iqm": iqm.estimate,
        "iqm_low": iqm.low,
        "iqm_high": iqm.high,
        "worst": float(summaries["worst"].mean()),
        "full": float(summaries["full"].mean()),
    }
    return level if weights is None else level | {"expected": float(entry.values.mean(0) @ weights)}


def _differences(entry: Entry, related: Relations, tests: SampleTests | None) -> dict[str, Any]:
    """How an entry differs from others."""
    to_reference = against(entry, None if entry is related.reference else related.reference)
    to_defaults = against(entry, related.defaults.get(entry.label))
    over_samples = NOT_TESTED if tests is None else tests.mean
    dedicated = related.dedicated
    gap = math.nan if dedicated is None else related.mode.sign * float(dedicated.values.mean() - entry.values.mean())
    return {
        **_interval("minus_reference", to_reference),
        "p_seeds": to_reference.test.p_value,
        "smallest_p_seeds": to_reference.test.smallest_p,
        "samples_minus_reference": over_samples.difference,
        "p_samples": over_samples.p_value,
        "smallest_p_samples": over_samples.smallest_p,
        **_interval("minus_defaults", to_defaults),
        "p_defaults": to_defaults.test.p_value,
        "gap_to_dedicated": gap,
        "worse_with_more": math.nan if tests is None else tests.worse_with_more,
    }


def _interval(name: str, found: Difference) -> dict[str, float]:
    interval = found.interval
    return {name: interval.estimate, f"{name}_low": interval.low, f"{name}_high": interval.high}


def _rows(
    entry: Entry, related: Relations, tests: SampleTests | None, combinations: Combinations
) -> Iterator[dict[str, Any]]:
    to_reference = _by_combination(entry, None if entry is related.reference else related.reference)
    to_defaults = _by_combination(entry, related.defaults.get(entry.label))
    for c, name in enumerate(combinations.names):
        values = entry.values[:, c]
        mean, dedicated = mean_interval(values), related.dedicated
        yield {
            "label": entry.label,
            "combination": name,
            "seeds": len(values),
            "mean": mean.estimate,
            "low": mean.low,
            "high": mean.high,
            "iqm": float(interquartile_mean(values)),
            "minus_reference": to_reference[c].interval.estimate,
            "p": to_reference[c].test.p_value,
            "p_samples": math.nan if tests is None else tests.each[c].p_value,
            "minus_defaults": to_defaults[c].interval.estimate,
            "minus_dedicated": math.nan if dedicated is None else float(values.mean() - dedicated.values[:, c].mean()),
        }


def _by_combination(entry: Entry, other: Entry | None) -> list[Difference]:
    """Of each combination, entry − other."""
    if other is None:
        return [NO_DIFFERENCE] * entry.values.shape[1]
    first, second = paired_values(entry, other)
    return [difference(a, b) for a, b in zip(first.T, second.T, strict=True)]


def _with_holm(frame: pd.DataFrame, *columns: str) -> pd.DataFrame:
    """With a column `{name}_holm` after each of these."""
    for name in columns:
        frame.insert(list(frame.columns).index(name) + 1, f"{name}_holm", holm(frame[name].to_numpy()))
    return frame
