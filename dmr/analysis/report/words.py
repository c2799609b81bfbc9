"""Counts, intervals and combinations in words, as the sentences of a report say them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from dmr.analysis.comparison.entries import Entry
from dmr.analysis.report.page_tables import interval_text, number
from dmr.analysis.results.record_names import counted
from dmr.analysis.statistics import Interval
from dmr.combinations import SEPARATOR


def combination_words(name: str, modalities: Sequence[str]) -> str:
    """`rgb-ir` in words: rgb and ir."""
    present = name.split(SEPARATOR)
    if len(present) == len(modalities):
        return "all modalities"
    return f"{present[0]} alone" if len(present) == 1 else f"{', '.join(present[:-1])} and {present[-1]}"


def status_words(runs: pd.DataFrame) -> str:
    """How many runs ended in which way, most first."""
    counts = sorted(runs["status"].value_counts().items(), key=lambda one: (-one[1], str(one[0])))
    return ", ".join(f"{count} {status}" for status, count in counts)


def trial_words(entry: Entry) -> str:
    return f" (trial {entry.trial})" if entry.trial >= 0 else ""


def difference_of(row: Mapping[str, Any], name: str, seeds: int) -> Interval:
    """A difference of a comparison's summary with its interval."""
    return Interval(float(row[name]), float(row[f"{name}_low"]), float(row[f"{name}_high"]), seeds)


def duration(seconds: float) -> str:
    """Seconds in the unit that a person would choose."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def names_text(labels: Sequence[str]) -> str:
    return labels[0] if len(labels) == 1 else f"{', '.join(labels[:-1])} and {labels[-1]}"


def interval_words(interval: Interval) -> str:
    text = interval_text(interval.low, interval.high)
    seeds = counted(interval.n, "seed")
    return f"95 % interval {text}, {seeds}" if text else f"{seeds}, no interval"


def with_interval(interval: Interval, signed: bool = False) -> str:
    ends = f"{number(interval.low, signed)} to {number(interval.high, signed)}"
    known = math.isfinite(interval.low) and math.isfinite(interval.high)
    return f"{number(interval.estimate, signed)} " + (f"(95 % interval {ends})" if known else "(no interval)")
