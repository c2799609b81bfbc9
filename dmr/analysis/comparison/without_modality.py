"""What is lost without a modality: the answer to which sensor can be dropped.

Not the Shapley value, which shares out the credit for what all modalities reach together: of two that say the same,
each gets half of it, and yet either can be dropped at no price.

Letters: S seeds.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from dmr.analysis.comparison.entries import Entry
from dmr.analysis.results.record_names import WITHOUT
from dmr.analysis.results.study_results import StudyResults, tied_to_class
from dmr.analysis.statistics import Floats, Interval, mean_interval
from dmr.combinations import Combinations
from dmr.direction import Direction


def without_frame(
    results: Sequence[StudyResults], entries: Sequence[Entry], combinations: Combinations, mode: Direction
) -> pd.DataFrame:
    """One row per entry; for each modality `without_{modality}`, what is lost without it, and the ends of its interval,
    `_low` and `_high`. No columns where a modality is missing more often in some classes: that it is there is then a
    hint by itself.
    """
    rows: dict[str, dict[str, float]] = {entry.label: {} for entry in entries}
    if not any(map(tied_to_class, results)):
        for entry in entries:
            for name, lost in without_modality(entry, combinations, mode).items():
                column = f"{WITHOUT}{name}"
                rows[entry.label] |= {column: lost.estimate, f"{column}_low": lost.low, f"{column}_high": lost.high}
    return pd.DataFrame.from_dict(rows, orient="index")


def without_modality(entry: Entry, combinations: Combinations, mode: Direction) -> dict[str, Interval]:
    """By modality, what is lost without it: mean over seeds, and its 95 % t interval."""
    return {name: mean_interval(lost) for name, lost in losses(entry, combinations, mode).items()}


def losses(entry: Entry, combinations: Combinations, mode: Direction) -> dict[str, Floats]:
    """(S,) by modality, how much worse the other modalities together are than all. Below 0, all are worse than all but
    this one. Empty where no sample has all modalities.
    """
    if not entry.comparable or len(combinations.modalities) < 2:
        return {}
    everything = range(len(combinations.modalities))
    without = {m: tuple(other for other in everything if other != m) for m in everything}
    rows = {member: row for row, member in enumerate(combinations.members)}
    full = entry.values[:, combinations.full]
    return {
        combinations.modalities[m]: mode.sign * (full - entry.values[:, rows[others]])
        for m, others in without.items()
        if others in rows
    }
