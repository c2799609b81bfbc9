"""Two configurations on the same seeds and on the same test samples.

Letters: S seeds, C combinations, N test samples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from dmr.analysis.comparison.entries import Entry
from dmr.analysis.comparison.measure import Measure
from dmr.analysis.results.artifacts import Samples
from dmr.analysis.statistics import (
    MAX_SEEDS_IN_FULL,
    Floats,
    Interval,
    PermutationTest,
    mean_interval,
    paired_permutation,
    paired_seeds,
    worse_with_more,
)
from dmr.combinations import Combinations

SEED = 0  # of every permutation and bootstrap of a comparison
RESOLUTION = 2.0**-23  # of the difference of two values in [0, 1] that torch computed in 32 bits
NOT_TESTED = PermutationTest(math.nan, math.nan, math.nan, 0)
UNKNOWN = Interval(math.nan, math.nan, math.nan, 0)


class Difference(NamedTuple):
    """The mean difference over the seeds in common with its interval, and the test of it."""

    interval: Interval
    test: PermutationTest


class SampleTests(NamedTuple):
    """What the test samples say of an entry.

    Attributes:
        worse_with_more: share of samples that get worse when a modality is added, mean over seeds.
        mean: the test against the reference of each sample's summary over combinations, see `Measure.sample_weights`;
            `each` combination's own.
    """

    worse_with_more: float
    mean: PermutationTest
    each: tuple[PermutationTest, ...]


NO_DIFFERENCE = Difference(UNKNOWN, NOT_TESTED)


def common_seeds(one: Entry, other: Entry) -> tuple[int, ...]:
    return tuple(sorted(set(one.seeds) & set(other.seeds)))


def paired_values(one: Entry, other: Entry, own: bool = False) -> tuple[Floats, Floats]:
    """The values (S, C) of both with the seeds in common; `own`, each combination on all samples that have it."""
    seeds = common_seeds(one, other)
    first, second = (
        (entry.own_values if own else entry.values)[[entry.seeds.index(seed) for seed in seeds]]
        for entry in (one, other)
    )
    return first, second


def difference(first: Floats, second: Floats) -> Difference:
    """Of scores (S,) of the same seeds: `paired_seeds`, and above its largest number of seeds the same test with
    random signs. One seed has no test.
    """
    if len(first) == 0:
        return NO_DIFFERENCE
    interval = mean_interval(first - second)
    if len(first) == 1:
        return Difference(interval, NOT_TESTED)
    if len(first) > MAX_SEEDS_IN_FULL:
        return Difference(interval, paired_permutation(first[:, None], second[:, None], SEED))
    return Difference(interval, paired_seeds(first, second, RESOLUTION))


def against(entry: Entry, other: Entry | None, measure: Measure) -> Difference:
    """Of the summary over combinations that is measured, entry − other."""
    if other is None:
        return NO_DIFFERENCE
    seeds = common_seeds(entry, other)
    return difference(measure.of_seeds(entry, seeds), measure.of_seeds(other, seeds))


def paired_interval(entry: Entry, other: Entry, measure: Measure) -> Interval:
    """The interval of `against` without its test; NaN without seeds in common."""
    seeds = common_seeds(entry, other)
    return mean_interval(measure.of_seeds(entry, seeds) - measure.of_seeds(other, seeds)) if seeds else UNKNOWN


def sample_tests(
    entries: Sequence[Entry],
    reference: Entry,
    measure: Measure,
    samples: Callable[[str], Samples | None],
    redrawn: bool,
) -> dict[str, SampleTests]:
    """By label, for every entry whose samples are all there; tests only against a reference of the same samples, and
    not where they are `redrawn` for each seed.

    A sample's score is its mean over the seeds in common: whole samples are swapped, since those of one sample in
    different seeds are alike. Where samples lack modalities, the mean is of those that have all.
    """
    combinations, weights = measure.combinations, measure.sample_weights
    known = _scores(reference, combinations, samples)
    found = {}
    for entry in entries:
        own = known if entry is reference else _scores(entry, combinations, samples)
        if own is None:
            continue
        worse = float(np.mean([worse_with_more(scores, combinations).share for scores in own]))
        mean, each = NOT_TESTED, (NOT_TESTED,) * len(combinations)
        seeds = common_seeds(entry, reference)
        if entry is not reference and not redrawn and known is not None and seeds and own.shape[1:] == known.shape[1:]:
            first = own[[entry.seeds.index(seed) for seed in seeds]]  # (S, C, N)
            second = known[[reference.seeds.index(seed) for seed in seeds]]
            if weights is not None:
                mean = _sample_test(_over_combinations(first, weights), _over_combinations(second, weights))
            each = tuple(_sample_test(first[:, c], second[:, c]) for c in range(len(combinations)))
        found[entry.label] = SampleTests(worse, mean, each)
    return found


def _scores(entry: Entry, combinations: Combinations, samples: Callable[[str], Samples | None]) -> Floats | None:
    """(S, C, N), None where a run's are gone or are of other combinations or samples than the others'."""
    found = []
    for run_id in entry.run_ids:
        one = samples(run_id)
        if one is None or not set(combinations.names) <= set(one[1]):
            return None
        found.append(one[0][[one[1].index(name) for name in combinations.names]].astype(np.float64))
    return np.stack(found) if len({scores.shape for scores in found}) == 1 else None


def _over_combinations(scores: Floats, weights: Floats) -> Floats:
    """(S, N) from (S, C, N): means with `weights` (C,) of the samples that have all combinations, NaN of others; where
    no sample has them all, means over what is known of each.
    """
    known = np.isfinite(scores)
    complete = known.all(1, keepdims=True)
    known &= complete if complete.any() else True
    total = (known * weights[:, None]).sum(1)
    sums = (np.where(known, scores, 0.0) * weights[:, None]).sum(1)
    return np.where(total > 0, sums / np.where(total > 0, total, 1.0), np.nan)


def _sample_test(first: Floats, second: Floats) -> PermutationTest:
    """Of the means over seeds of scores (S, N) of the same samples, those left out that have none."""
    one, other = first.mean(0), second.mean(0)
    known = np.isfinite(one) & np.isfinite(other)
    return paired_permutation(one[None, known], other[None, known], SEED) if known.any() else NOT_TESTED
