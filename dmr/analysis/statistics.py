"""Statistics over seeds, test samples and combinations: arrays in, numbers out.

Letters: S seeds, N test samples, T tests, C combinations, M modalities, K pairs that differ or objectives,
R resamples.
A value that is not finite makes what is computed from it NaN; it is never dropped.
"""

from __future__ import annotations

import math
import warnings
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import stats

from dmr.combinations import Combinations

Floats = npt.NDArray[np.float64]

BOOTSTRAP_RESAMPLES = 9_999
FEWEST_FOR_BOOTSTRAP = 30  # values, for its interval to cover what it says
MAX_SEEDS_IN_FULL = 16
SIGNIFICANCE = 0.05  # p at or below it counts as a finding
CHUNK = 1 << 22  # signs in memory at once, 32 MB
TIE = 1e-9  # two sums this close, as a share of the sum of the magnitudes, are one


class Interval(NamedTuple):
    """An estimate from `n` values and the ends of its confidence interval."""

    estimate: float
    low: float
    high: float
    n: int


class PermutationTest(NamedTuple):
    """Mean difference (first − second) of `n` pairs, its two-sided p, and the smallest p that their number allows."""

    difference: float
    p_value: float
    smallest_p: float
    n: int


class WorseWithMore(NamedTuple):
    """Share of samples that get worse when a modality is added: any, and each."""

    share: float
    by_modality: dict[str, float]


def mean_interval(values: npt.ArrayLike, confidence: float = 0.95) -> Interval:
    """Mean of values (S,) and Student's t interval, mean ± t(S − 1) s / √S: every interval of a mean or of a paired
    difference that is printed anywhere. Of normal values it holds the true mean as often as it says with any S from 2
    on; a BCa bootstrap does so in 83 of 100 cases for 5 values where it says 95. One value has none: NaN.

    Raises:
        ValueError: no values, or not one axis.
    """
    sample = checked_array(values, "(S,)", "values")
    estimate, n = float(sample.mean()), len(sample)
    if n == 1 or not np.isfinite(sample).all():
        return Interval(estimate, math.nan, math.nan, n)
    reach = float(stats.t.ppf((1.0 + confidence) / 2.0, n - 1) * sample.std(ddof=1) / math.sqrt(n))
    return Interval(estimate, estimate - reach, estimate + reach, n)


def t_test(values: npt.ArrayLike) -> float:
    """Two-sided p of Student's t test that the mean of values (S,) is 0; of equal values it is 1 for 0, else 0.

    Raises:
        ValueError: no values, or not one axis.
    """
    sample = checked_array(values, "(S,)", "values")
    if len(sample) == 1 or not np.isfinite(sample).all():
        return math.nan
    spread = float(sample.std(ddof=1))
    if spread == 0.0:
        return float(sample[0] == 0.0)
    t = abs(float(sample.mean())) * math.sqrt(len(sample)) / spread
    return float(2.0 * stats.t.sf(t, len(sample) - 1))


def smallest_effect(values: npt.ArrayLike, power: float = 0.8, significance: float = SIGNIFICANCE) -> float:
    """The mean that a two-sided t test of as many values (S,) as spread would find in a share `power` of experiments:
    (t(1 − significance / 2) + t(power)) s / √S with S − 1 degrees of freedom (Bloom, "Minimum detectable effects",
    1995). One value has none: NaN.

    Raises:
        ValueError: no values, or not one axis.
    """
    sample = checked_array(values, "(S,)", "values")
    if len(sample) == 1 or not np.isfinite(sample).all():
        return math.nan
    reach = float(stats.t.ppf([1.0 - significance / 2.0, power], len(sample) - 1).sum())
    return reach * float(sample.std(ddof=1)) / math.sqrt(len(sample))


def iqm_interval(values: npt.ArrayLike, seed: int, confidence: float = 0.95) -> Interval:
    """Interquartile mean of values (S,) and, from `FEWEST_FOR_BOOTSTRAP` values on, its bias-corrected and accelerated
    (BCa) bootstrap interval (Efron 1987); the percentile interval where BCa is not defined, as for equal values. Of
    fewer values it would be too narrow: NaN.

    Raises:
        ValueError: no values, or not one axis.
    """
    sample = checked_array(values, "(S,)", "values")
    estimate, n = float(interquartile_mean(sample)), len(sample)
    if n < FEWEST_FOR_BOOTSTRAP or not np.isfinite(sample).all():
        return Interval(estimate, math.nan, math.nan, n)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # where BCa is not defined; it gives NaN then
        drawn = stats.bootstrap(
            (sample,),
            interquartile_mean,
            n_resamples=BOOTSTRAP_RESAMPLES,
            confidence_level=confidence,
            vectorized=True,
            rng=np.random.default_rng(seed),
        )
    low, high = drawn.confidence_interval
    if math.isnan(low) or math.isnan(high):
        tail = (1.0 - confidence) / 2.0
        low, high = np.quantile(drawn.bootstrap_distribution, (tail, 1.0 - tail))
    return Interval(estimate, float(low), float(high), n)


def interquartile_mean(values: npt.ArrayLike, axis: int = -1) -> Floats:
    """Mean along `axis` without the floor(S / 4) lowest and as many highest values (Agarwal et al. 2021, section 4.3).

    For S < 4 that is the mean.
    """
    trimmed: Floats = stats.trim_mean(np.asarray(values, dtype=np.float64), 0.25, axis=axis)
    return trimmed


def fewest_seeds(tests: int) -> int:
    """The fewest seeds with which the smallest p of `paired_seeds`, 2 / 2^S, is not above `SIGNIFICANCE` after Holm's
    correction for so many tests: 6 for one, 7 for two, 8 for four.
    """
    return math.ceil(math.log2(2 * tests / SIGNIFICANCE))


def paired_permutation(
    first: npt.ArrayLike, second: npt.ArrayLike, seed: int, resamples: int = 10_000
) -> PermutationTest:
    """Two-sided permutation test of the mean difference between two methods' scores (S, N) of the same test samples.

    The pairs are test samples stratified by seed, n = S · N. Null: in every seed, a sample's two scores could as well
    have come the other way round, independently of all other pairs; so each pair is swapped with probability 1/2,
    never across seeds or samples (Fisher 1935, section 21). All 2^K swaps are enumerated where these are at most
    `resamples`, else p = (1 + hits) / (1 + resamples) (Phipson and Smyth 2010).

    What the null does not cover:
        Training: p speaks of these S trained models of each method, not of others. `paired_seeds` does.
        Other test samples: the same N come back in each seed, so that pairs of one sample are alike, and p is too
        small as a statement on unseen samples. Give the means over seeds, (1, N), to swap whole samples instead.

    Raises:
        ValueError: the shapes differ, are not (S, N), or nothing is in them.
    """
    differences = _differences(first, second, "(S, N)").ravel()
    mean = float(differences.mean())
    if not math.isfinite(mean):
        return PermutationTest(math.nan, math.nan, math.nan, len(differences))
    moved = differences[differences != 0.0]
    if len(moved) <= math.log2(resamples):
        return PermutationTest(mean, *_enumerated(moved), len(differences))
    p_value = (1 + _random_hits(moved, seed, resamples)) / (1 + resamples)
    return PermutationTest(mean, p_value, 1 / (1 + resamples), len(differences))


def paired_seeds(first: npt.ArrayLike, second: npt.ArrayLike, resolution: float = 0.0) -> PermutationTest:
    """Two-sided exact sign-flip test of the mean difference between two methods' scores (S,) of the same seeds.

    Null: a seed's two scores could as well have come the other way round. It covers what
    varies with the seed, training above all. The smallest attainable p is 2 / 2^S: 0.0625 with 5 seeds, see
    `fewest_seeds`.

    Args:
        resolution: how exact a difference is; one that small is none, and sums that close are one. Scores that were
            rounded need it, since their ties are no longer exact, and p is too small without them.

    Raises:
        ValueError: the shapes differ, are not (S,), or S is 0 or above `MAX_SEEDS_IN_FULL`.
    """
    differences = _differences(first, second, "(S,)")
    if len(differences) > MAX_SEEDS_IN_FULL:
        raise ValueError(f"{len(differences)} seeds given; allowed are 1 to {MAX_SEEDS_IN_FULL}")
    mean = float(differences.mean())
    if not math.isfinite(mean):
        return PermutationTest(math.nan, math.nan, math.nan, len(differences))
    moved = differences[np.abs(differences) > resolution]
    return PermutationTest(mean, *_enumerated(moved, resolution), len(differences))


def _enumerated(moved: Floats, resolution: float = 0.0) -> tuple[float, float]:
    """p over all 2^K swaps of differences (K,), and the smallest p possible: of the swaps that give one sign to all."""
    count = 1 << len(moved)
    swapped = np.arange(count)[:, None] >> np.arange(len(moved)) & 1
    return _hits(moved, swapped, resolution) / count, min(1.0, 2.0 / count)


def _random_hits(moved: Floats, seed: int, resamples: int) -> int:
    """Hits among R random swaps of differences (K,): one bit per pair (scipy.stats.permutation_test sorts floats)."""
    generator = np.random.default_rng(seed)
    rows = max(1, CHUNK // len(moved))
    hits = 0
    for start in range(0, resamples, rows):
        size = (min(rows, resamples - start), -(-len(moved) // 8))
        octets = generator.integers(0, 256, size=size, dtype=np.uint8)
        hits += _hits(moved, np.unpackbits(octets, axis=1, count=len(moved)))
    return hits


def _hits(moved: Floats, swapped: npt.NDArray[np.integer], resolution: float = 0.0) -> int:
    """How many rows of swaps (R, K) give differences (K,) a sum at least as far from 0 as the one observed."""
    total = moved.sum()
    sums = total - 2.0 * (swapped @ moved)
    tie = TIE * np.abs(moved).sum() + resolution * len(moved)
    return int(np.count_nonzero(np.abs(sums) >= abs(total) - tie))


def holm(p_values: npt.ArrayLike) -> Floats:
    """(T,) p adjusted for T tests (Holm 1979): the i-th smallest times T − i + 1, at least the one before, at most 1.

    NaN stays NaN and is not counted as a test.

    Raises:
        ValueError: a p outside [0, 1], none at all, or not one axis.
    """
    adjusted = checked_array(p_values, "(T,)", "p values").copy()
    if (adjusted < 0.0).any() or (adjusted > 1.0).any():
        raise ValueError(f"p values between 0 and 1 are needed, got {np.nanmin(adjusted)} to {np.nanmax(adjusted)}")
    order = np.argsort(adjusted)[: np.count_nonzero(~np.isnan(adjusted))]  # NaN sorts last
    steps = adjusted[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return adjusted


def shapley(values: npt.ArrayLike, combinations: Combinations, empty: float) -> dict[str, float]:
    """Exact Shapley value of each modality from the values (C,) of all combinations; they sum to v(all) − `empty`.

    φ_m = Σ_{B ∌ m} |B|! (M − |B| − 1)! / M! · (v(B ∪ m) − v(B)) (Shapley 1953).

    Args:
        empty: v(∅), what is had without any modality: for accuracy that of always answering the majority class.

    Raises:
        ValueError: a combination is missing, or `values` is not (C,).
    """
    known = checked_array(values, "(C,)", "values")
    count = len(combinations.modalities)
    if not combinations.complete:
        raise ValueError(f"Shapley values need all {2**count - 1} combinations, got {len(combinations)}")
    _check_length(len(known), combinations)
    bits = 1 << np.arange(count)
    table = np.empty(1 << count)  # by the bits of a combination
    table[0] = empty
    table[combinations.masks @ bits] = known
    sizes = np.array([code.bit_count() for code in range(1 << count)])
    weights = np.array([1.0 / (count * math.comb(count - 1, size)) for size in range(count)])
    result = {}
    for name, bit in zip(combinations.modalities, bits, strict=True):
        without = np.flatnonzero((np.arange(1 << count) & bit) == 0)
        result[name] = float(weights[sizes[without]] @ (table[without | bit] - table[without]))
    return result


def worse_with_more(scores: npt.ArrayLike, combinations: Combinations) -> WorseWithMore:
    """Share in which a sample's score falls when a modality is added, over samples and pairs of evaluated combinations
    that differ by that modality alone; NaN without such a pair.

    Args:
        scores: (C, N), more is better.

    Raises:
        ValueError: `scores` is not (C, N).
    """
    known = checked_array(scores, "(C, N)", "scores")
    _check_length(len(known), combinations)
    rows = {member: row for row, member in enumerate(combinations.members)}
    falls, counts, by_modality = 0.0, 0, {}
    for m, name in enumerate(combinations.modalities):
        less = {row: rows.get(tuple(k for k in member if k != m)) for member, row in rows.items() if m in member}
        pairs = [(before, after) for after, before in less.items() if before is not None]
        fell = sum(float(_fell(known[before], known[after])) for before, after in pairs)
        count = len(pairs) * known.shape[1]
        by_modality[name] = fell / count if count else math.nan
        falls, counts = falls + fell, counts + count
    return WorseWithMore(falls / counts if counts else math.nan, by_modality)


def pareto_front(values: npt.ArrayLike) -> npt.NDArray[np.bool_]:
    """(N,) True where no other point is at least as good in every objective and better in one. Equal points are on the
    front together; one with a NaN never is.

    Args:
        values: (N, K) of K objectives, more is better in each.
    """
    points = np.asarray(values, dtype=np.float64)
    front = np.zeros(len(points), dtype=bool)
    for point in np.lexsort(-points.T[::-1]):  # best first objective first: only those before it can beat a point
        if not np.isnan(points[point]).any():
            before = points[front]
            no_worse, better = (before >= points[point]).all(axis=1), (before > points[point]).any(axis=1)
            front[point] = not (no_worse & better).any()
    return front


def _fell(before: Floats, after: Floats) -> float:
    """In how many of the samples (N,) the score fell; NaN if one is unknown."""
    if np.isnan(before).any() or np.isnan(after).any():
        return math.nan
    return float(np.count_nonzero(after < before))


def checked_array(values: npt.ArrayLike, shape: str, what: str) -> Floats:
    """`values` as numbers of that `shape`, such as `(S, N)`.

    Raises:
        ValueError: another number of axes, or nothing in it; `what` they are is said.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != len(shape.strip("(,)").split(",")) or array.size == 0:
        raise ValueError(f"{what} of shape {array.shape}; needed is {shape}, and not empty")
    return array


def _differences(first: npt.ArrayLike, second: npt.ArrayLike, shape: str) -> Floats:
    one, other = checked_array(first, shape, "scores"), checked_array(second, shape, "scores")
    if one.shape != other.shape:
        raise ValueError(f"scores of shapes {one.shape} and {other.shape}; needed is one shape {shape}")
    with np.errstate(invalid="ignore"):  # infinity − infinity
        return one - other


def _check_length(rows: int, combinations: Combinations) -> None:
    if rows != len(combinations):
        raise ValueError(f"{rows} rows for {len(combinations)} combinations")
