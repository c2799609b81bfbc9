"""Statistics of order: of the best of several trials, and of methods over several data sets. Arrays in, numbers out.

Letters: N trials, n of them drawn, S runs, D data sets, K methods, R resamples.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import stats

from dmr.analysis.statistics import Floats, Interval, checked_array

RESAMPLES = 2_000  # of runs, as many as Agarwal et al. (2021) take


def chances_to_be_best(count: int, drawn: int) -> Floats:
    """(N,) the chance of each of N = `count` trials, worst first, to be the best of n = `drawn` of them, drawn without
    replacement: C(i − 1, n − 1) / C(N, n) of the i-th. Their mean with these weights is the expected best of n, exact
    over all C(N, n) draws (Tang et al. 2020, "Showing Your Work Doesn't Always Work"; Dodge et al. 2019 draw with
    replacement, which is biased: the best of N drawn so often lacks the best).

    Raises:
        ValueError: not 1 ≤ n ≤ N.
    """
    if not 1 <= drawn <= count:
        raise ValueError(f"the best of {drawn} of {count} trials: 1 to {count} can be drawn")
    chances = np.zeros(count)
    chances[-1] = drawn / count
    ranks = np.arange(count - 1, drawn - 1, -1)  # i = N − 1, ..., n: each chance is (i − n + 1) / i of the one above
    chances[drawn - 1 : -1] = (drawn / count * np.cumprod((ranks - drawn + 1) / ranks))[::-1]
    return chances


def probabilities_of_improvement(
    values: Sequence[Sequence[npt.ArrayLike]], seed: int, confidence: float = 0.95
) -> dict[tuple[int, int], Interval]:
    """Of each pair of methods (i, j), the chance that a run of i is better than one of j, ties half: the Mann–Whitney U
    of the runs of a data set over their number of pairs, averaged over data sets, with a percentile bootstrap interval
    in which runs are drawn anew within each method and data set (Agarwal et al. 2021, section 4.3). n is D.

    Args:
        values: D × K arrays (S,) of runs, more is better; each method and data set may have its own S.

    Raises:
        ValueError: a method without runs.
    """
    generator = np.random.default_rng(seed)
    runs = [[checked_array(own, "(S,)", "runs") for own in one] for one in values]
    shares = [[_redrawn(len(own), generator) for own in one] for one in runs]
    found = {}
    for i, j in itertools.combinations(range(len(runs[0])), 2):
        above = [(np.sign(one[i][:, None] - one[j]) + 1.0) / 2.0 for one in runs]  # D × (S, S): 1 better, 1/2 equal
        drawn = [((ours[i] @ wins) * ours[j]).sum(1) for ours, wins in zip(shares, above, strict=True)]
        estimate = float(np.mean([wins.mean() for wins in above]))
        p, low, high, n = found[i, j] = _percentiles(estimate, np.mean(drawn, axis=0), len(runs), confidence)
        found[j, i] = Interval(1.0 - p, 1.0 - high, 1.0 - low, n)
    return found


def mean_ranks(
    values: Sequence[Sequence[npt.ArrayLike]], seed: int, confidence: float = 0.95
) -> tuple[Floats, list[Interval]]:
    """The rank (D, K) of each method on each data set by its mean over runs, 1 is best and equal ones share theirs; and
    of each method its mean over data sets, with an interval as those of `probabilities_of_improvement`.

    Args:
        values: D × K arrays (S,) of runs, more is better.

    Raises:
        ValueError: a method without runs.
    """
    generator, ranks, drawn = np.random.default_rng(seed), [], []
    for runs in values:
        arrays = [checked_array(own, "(S,)", "runs") for own in runs]
        ranks.append(stats.rankdata([-own.mean() for own in arrays], nan_policy="propagate"))
        means = np.stack([_redrawn(len(own), generator) @ own for own in arrays], axis=1)  # (R, K)
        drawn.append(stats.rankdata(-means, axis=1, nan_policy="propagate"))
    table, over = np.array(ranks), np.mean(drawn, axis=0)
    means = table.mean(0)
    return table, [_percentiles(float(m), own, len(table), confidence) for m, own in zip(means, over.T, strict=True)]


def _redrawn(count: int, generator: np.random.Generator) -> Floats:
    """(R, S) the share of each of S values in each of R resamples."""
    return generator.multinomial(count, np.full(count, 1.0 / count), RESAMPLES) / count


def _percentiles(estimate: float, drawn: Floats, n: int, confidence: float) -> Interval:
    """The interval of an estimate from resamples (R,)."""
    tail = (1.0 - confidence) / 2.0
    low, high = np.quantile(drawn, (tail, 1.0 - tail))
    return Interval(estimate, float(low), float(high), n)
