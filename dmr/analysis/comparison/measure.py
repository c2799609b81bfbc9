"""By what configurations are ordered, compared and tested: the summary over combinations that the search looked for.

Letters: S seeds, C combinations.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dmr.analysis.comparison.entries import Entries, Entry
from dmr.analysis.results.study_results import StudyResults
from dmr.analysis.statistics import Floats, Interval, mean_interval
from dmr.combinations import Combinations
from dmr.direction import Direction

MEAN, WORST, FULL, EXPECTED = "mean", "worst", "full", "expected"


@dataclass(frozen=True)
class Measure:
    """One number per seed of an entry.

    Attributes:
        name: the summary over combinations: `mean`, `worst`, `full` or `expected`.
        mode: which way the metric is better.
        weights: (C,) how likely each combination is met, None where no odds are known.
    """

    name: str
    mode: Direction
    combinations: Combinations
    weights: Floats | None

    def of(self, entry: Entry) -> Floats:
        """(S,) of an entry, in the order of its seeds."""
        return entry.summaries(self.combinations, self.mode, self.weights)[self.name]

    def of_seeds(self, entry: Entry, seeds: Sequence[int]) -> Floats:
        """(S,) of an entry, of these of its seeds in this order."""
        return self.of(entry)[[entry.seeds.index(seed) for seed in seeds]]

    def best_first(self, entries: Sequence[Entry]) -> tuple[Entry, ...]:
        """The entries, best mean over seeds first."""
        return tuple(sorted(entries, key=lambda entry: -self.mode.sign * float(self.of(entry).mean())))

    def levels(self, entry: Entry) -> dict[str, Interval]:
        """Every summary of an entry that is known, its mean over seeds with the interval."""
        found = entry.summaries(self.combinations, self.mode, self.weights)
        return {name: mean_interval(values) for name, values in found.items() if not math.isnan(values[0])}

    @property
    def sample_weights(self) -> Floats | None:
        """(C,) with which a single sample's scores are averaged to give this summary of samples; None for the worst,
        since the worst combination is one of all samples together.
        """
        if self.name == WORST:
            return None
        if self.name == EXPECTED:
            return self.weights
        one_hot = np.zeros(len(self.combinations))
        if self.name == FULL:
            one_hot[self.combinations.full] = 1.0
        return np.ones(len(self.combinations)) if self.name == MEAN else one_hot


def searched_measure(
    results: Sequence[StudyResults], found: Entries, weights: Floats | None, asked: bool = False
) -> tuple[Measure, tuple[str, ...]]:
    """What the searches looked for, and sentences on where it is not that.

    Args:
        asked: whether a reader has asked for the expected value under odds of their own.
    """
    mode = results[0].main_mode
    wanted = list(dict.fromkeys(one.objectives[0]["metric"] for one in results))
    name = EXPECTED if asked else wanted[0].rpartition("_")[2]
    if asked:
        return Measure(name, mode, found.combinations, weights), ()
    if len(wanted) > 1:
        note = (
            f"the studies searched for different objectives, {', '.join(wanted)}: all is by the mean over combinations"
        )
        return Measure(MEAN, mode, found.combinations, weights), (note,)
    known = found.entries[0].summaries(found.combinations, mode, weights)
    if name not in known or math.isnan(known[name][0]):
        note = f"the search looked for {wanted[0]}, which is not known on {found.split}: all is by the mean"
        return Measure(MEAN, mode, found.combinations, weights), (note,)
    metric = wanted[0].removeprefix("val/").rpartition("_")[0]
    other = f"the search looked for {wanted[0]}; what is compared is {results[0].main_metric}, by its {name}"
    return Measure(name, mode, found.combinations, weights), (other,) if metric != results[0].main_metric else ()
