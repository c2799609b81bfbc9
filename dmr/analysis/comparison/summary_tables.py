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
from dmr.analysis.comparison.measure import EXPECTED, FULL, MEAN, WORST, Measure
from dmr.analysis.comparison.paired_tests import (
    NO_DIFFERENCE,
    NOT_TESTED,
    SEED,
    UNKNOWN,
    Difference,
    SampleTests,
    against,
    difference,
    paired_values,
)
from dmr.analysis.statistics import Interval, holm, interquartile_mean, iqm_interval, mean_interval
from dmr.combinations import Combinations


class Relations(NamedTuple):
    """Who is compared with whom.

    Attributes:
        defaults: by label, see `defaults_of`.
        dedicated: of one network per combination, what the search put first on val.
        measure: the summary over combinations that differences are of.
    """

    reference: Entry
    defaults: Mapping[str, Entry]
    dedicated: Entry | None
    measure: Measure


def relations(
    entries: Sequence[Entry], reference: Entry, dedicated: Entry | None, measure: Measure, blocks: Collection[str]
) -> Relations:
    """Whom each entry is compared with.

    Args:
        blocks: names of the studies whose search has blocks.
    """
    found = {entry.label: defaults_of(entry, entries, entry.study in blocks) for entry in entries}
    defaults = {label: own for label, own in found.items() if own is not None}
    return Relations(reference, defaults, dedicated, measure)


def summary_frame(
    entries: Sequence[Entry],
    related: Relations,
    tests: Mapping[str, SampleTests],
) -> pd.DataFrame:
    """The summary of a comparison: one row per entry."""
    rows = {}
    for entry in entries:
        rows[entry.label] = _level(entry, related.measure)
        rows[entry.label] |= _differences(entry, related, tests.get(entry.label))
    frame = pd.DataFrame.from_dict(rows, orient="index").rename_axis("label")
    return _with_holm(frame, "p_seeds", "p_samples", "p_defaults")


def combination_frame(
    entries: Sequence[Entry], related: Relations, tests: Mapping[str, SampleTests], combinations: Combinations
) -> pd.DataFrame:
    """One row per entry and combination."""
    rows = [row for entry in entries for row in _rows(entry, related, tests.get(entry.label), combinations)]
    return _with_holm(pd.DataFrame(rows), "p", "p_samples")


def _level(entry: Entry, measure: Measure) -> dict[str, Any]:
    """How good an entry is."""
    levels = measure.levels(entry)
    iqm = iqm_interval(entry.summaries(measure.combinations, measure.mode)[MEAN], SEED)
    level: dict[str, Any] = {
        "study": entry.study,
        "method": entry.method,
        "config": entry.config,
        "trial": entry.trial,
        "seeds": len(entry.seeds),
        "by": measure.name,
        **_ends("", levels[MEAN], MEAN),
        **_ends("iqm_", iqm, "iqm"),
    }
    for name in (WORST, FULL, *([] if measure.weights is None else [EXPECTED])):
        level |= _ends(f"{name}_", levels.get(name, UNKNOWN), name)
    return level


def _differences(entry: Entry, related: Relations, tests: SampleTests | None) -> dict[str, Any]:
    """How an entry differs from others."""
    measure = related.measure
    to_reference = against(entry, None if entry is related.reference else related.reference, measure)
    to_defaults = against(entry, related.defaults.get(entry.label), measure)
    over_samples = NOT_TESTED if tests is None else tests.mean
    dedicated = related.dedicated
    gap = math.nan
    if dedicated is not None:
        gap = measure.mode.sign * float(measure.of(dedicated).mean() - measure.of(entry).mean())
    return {
        **_ends("minus_reference_", to_reference.interval, "minus_reference"),
        "p_seeds": to_reference.test.p_value,
        "smallest_p_seeds": to_reference.test.smallest_p,
        "samples_minus_reference": over_samples.difference,
        "p_samples": over_samples.p_value,
        "smallest_p_samples": over_samples.smallest_p,
        **_ends("minus_defaults_", to_defaults.interval, "minus_defaults"),
        "p_defaults": to_defaults.test.p_value,
        "gap_to_dedicated": gap,
        "worse_with_more": math.nan if tests is None else tests.worse_with_more,
    }


def _ends(prefix: str, found: Interval, name: str) -> dict[str, float]:
    """An estimate as column `name`, the ends of its interval as `low` and `high` with a prefix."""
    return {name: found.estimate, f"{prefix}low": found.low, f"{prefix}high": found.high}


def _rows(
    entry: Entry, related: Relations, tests: SampleTests | None, combinations: Combinations
) -> Iterator[dict[str, Any]]:
    to_reference = _by_combination(entry, None if entry is related.reference else related.reference)
    to_defaults = _by_combination(entry, related.defaults.get(entry.label))
    for c, name in enumerate(combinations.names):
        values, dedicated = entry.own_values[:, c], related.dedicated
        mean = mean_interval(values)
        bound = math.nan if dedicated is None else float(dedicated.own_values[:, c].mean())
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
            "minus_dedicated": float(values.mean()) - bound,
        }


def _by_combination(entry: Entry, other: Entry | None) -> list[Difference]:
    """Of each combination, entry − other."""
    if other is None:
        return [NO_DIFFERENCE] * entry.values.shape[1]
    first, second = paired_values(entry, other, own=True)
    return [difference(a, b) for a, b in zip(first.T, second.T, strict=True)]


def _with_holm(frame: pd.DataFrame, *columns: str) -> pd.DataFrame:
    """With a column `{name}_holm` after each of these."""
    for name in columns:
        frame.insert(list(frame.columns).index(name) + 1, f"{name}_holm", holm(frame[name].to_numpy()))
    return frame
