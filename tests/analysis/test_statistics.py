"""Statistics against values worked by hand, brute force and scipy."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from scipy import stats

from dmr.analysis import statistics
from dmr.analysis.statistics import (
    fewest_seeds,
    holm,
    interquartile_mean,
    iqm_interval,
    mean_interval,
    paired_permutation,
    paired_seeds,
    pareto_front,
    shapley,
    worse_with_more,
)
from dmr.combinations import Combinations, all_combinations, evaluated_combinations
from dmr.direction import Direction

TWO = all_combinations(("a", "b"))
THREE = all_combinations(("a", "b", "c"))


@pytest.fixture(autouse=True)
def warnings_are_errors() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


# Intervals


def test_the_interquartile_mean_is_that_of_the_middle_half() -> None:
    assert interquartile_mean([100.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, -100.0]) == pytest.approx((2 + 3 + 4 + 5) / 4)
    assert interquartile_mean([9.0, 1.0, 2.0, 3.0, -5.0]) == pytest.approx(2.0)  # one goes at each end
    assert interquartile_mean([1.0, 2.0, 9.0]) == pytest.approx(4.0)  # none goes


@pytest.mark.parametrize("n", [2, 12, 40])
def test_an_interval_of_a_mean_is_scipys(n: int) -> None:
    values = np.random.default_rng(3).exponential(size=n)
    expected = stats.ttest_1samp(values, 0.0).confidence_interval(0.9)
    got = mean_interval(values, confidence=0.9)
    assert (got.low, got.high) == pytest.approx((expected.low, expected.high))
    assert (got.estimate, got.n) == (values.mean(), n)


def test_an_interval_of_an_interquartile_mean_is_scipys() -> None:
    values = np.random.default_rng(3).exponential(size=30)
    expected = stats.bootstrap(
        (values,), interquartile_mean, confidence_level=0.9, rng=np.random.default_rng(7), method="BCa"
    )
    got = iqm_interval(values, 7, confidence=0.9)
    assert (got.low, got.high) == pytest.approx(tuple(expected.confidence_interval))
    assert got.estimate == interquartile_mean(values)
    assert got.low < got.estimate < got.high
    assert np.isnan(iqm_interval(values[:29], 7)[1:3]).all(), "a bootstrap of few values is too narrow"


def test_intervals_hold_the_true_mean_as_often_as_they_say(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of normal values, whatever the number of seeds."""
    generator = np.random.default_rng(0)

    def covered(intervals: Iterator[statistics.Interval]) -> float:
        return float(np.mean([found.low <= 2.0 <= found.high for found in intervals]))

    for seeds in (3, 5, 10, 30):
        draws = generator.normal(2.0, 3.0, size=(4_000, seeds))
        assert 0.93 <= covered(mean_interval(row) for row in draws) <= 0.97, seeds
    monkeypatch.setattr(statistics, "BOOTSTRAP_RESAMPLES", 999)
    draws = generator.normal(2.0, 3.0, size=(1_000, statistics.FEWEST_FOR_BOOTSTRAP))
    assert 0.93 <= covered(iqm_interval(row, seed) for seed, row in enumerate(draws)) <= 0.97


def test_an_interval_depends_on_its_seed_alone(under_two_global_seeds: Callable[..., tuple[Any, Any]]) -> None:
    values = np.random.default_rng(1).random(30)
    one, other = under_two_global_seeds(lambda: (mean_interval(values), iqm_interval(values, 5)))
    assert one == other
    assert iqm_interval(values, 6) != one[1]


def test_one_value_has_no_interval_and_equal_ones_an_empty_one() -> None:
    for one in (mean_interval([0.7]), iqm_interval([0.7], 0)):
        assert (one.estimate, one.n) == (0.7, 1)
        assert math.isnan(one.low)
        assert math.isnan(one.high)
    assert mean_interval([0.5, 0.5, 0.5, 0.5]) == (0.5, 0.5, 0.5, 4)
    assert iqm_interval([0.5] * 30, 0) == (0.5, 0.5, 0.5, 30)


def test_the_percentile_interval_stands_in_where_bca_is_not_defined() -> None:
    """The interquartile mean of values that are 0 but for one is 0 and stays so whichever value is left out."""
    values = np.array([0.0] * 29 + [1.0])
    expected = stats.bootstrap(
        (values,), interquartile_mean, confidence_level=0.9, method="percentile", rng=np.random.default_rng(0)
    )
    assert iqm_interval(values, 0, confidence=0.9)[1:3] == pytest.approx(tuple(expected.confidence_interval))


def test_an_unknown_value_makes_the_interval_unknown() -> None:
    assert all(math.isnan(value) for value in mean_interval([0.1, math.nan, 0.2])[:3])
    assert all(math.isnan(value) for value in iqm_interval([math.nan] * 30, 0)[:3])


@pytest.mark.parametrize("values", [[], [[1.0, 2.0]], 3.0])
def test_an_interval_needs_one_axis_of_values(values: Any) -> None:
    for interval in (mean_interval, lambda given: iqm_interval(given, 0)):
        with pytest.raises(ValueError, match=r"values of shape \(.*\); needed is \(S,\), and not empty"):
            interval(values)


@pytest.mark.parametrize("tests", [1, 2, 3, 4, 6, 7, 12])
def test_the_fewest_seeds_whose_tests_could_find_something(tests: int) -> None:
    """All T tests have the smallest p that so many seeds allow: Holm gives the first of them T times that."""
    found = fewest_seeds(tests)
    smallest = [holm([paired_seeds([1.0] * n, [0.0] * n).p_value] * tests).min() for n in (found - 1, found)]
    assert smallest[1] <= statistics.SIGNIFICANCE < smallest[0]


# Paired tests


def enumerated(differences: Any) -> float:
    """p over all sign flips."""
    flat = np.ravel(differences)
    sums = [abs(np.dot(signs, flat)) for signs in itertools.product((1, -1), repeat=len(flat))]
    return float(np.mean(np.array(sums) >= abs(flat.sum()) - 1e-12))


def test_few_pairs_are_tested_exactly() -> None:
    first = np.array([[0.9, 0.4, 0.7, 0.2], [0.8, 0.5, 0.3, 0.6]])
    second = np.array([[0.5, 0.4, 0.8, 0.1], [0.2, 0.1, 0.3, 0.5]])
    found = paired_permutation(first, second, seed=0)
    assert found.difference == pytest.approx((0.4 + 0 - 0.1 + 0.1 + 0.6 + 0.4 + 0 + 0.1) / 8)
    assert found.p_value == pytest.approx(enumerated(first - second))
    assert found.p_value == pytest.approx(
        stats.permutation_test(
            (first.ravel(), second.ravel()),
            lambda a, b, axis: (a - b).mean(axis),
            permutation_type="samples",
            vectorized=True,
            n_resamples=np.inf,
        ).pvalue
    )
    assert found.smallest_p == 2 / 2**6  # two of the eight pairs are equal
    assert found.n == 8


def test_pairs_that_all_favour_one_method_reach_the_smallest_p() -> None:
    right, wrong = np.ones((2, 3), dtype=bool), np.zeros((2, 3), dtype=bool)
    assert paired_permutation(right, wrong, 0) == (1.0, 2 / 64, 2 / 64, 6)
    assert paired_permutation(wrong, right, 0) == (-1.0, 2 / 64, 2 / 64, 6)
    assert paired_permutation(np.ones((2, 30)), np.zeros((2, 30)), 0, resamples=99) == (1.0, 0.01, 0.01, 60)


def test_equal_methods_differ_by_nothing() -> None:
    assert paired_permutation([[1, 0]], [[1, 0]], 0) == (0.0, 1.0, 1.0, 2)
    assert paired_seeds([0.5, 0.25], [0.5, 0.25]) == (0.0, 1.0, 1.0, 2)


def test_random_swaps_come_close_to_the_binomial_test() -> None:
    """Scores of 0 and 1: the exact test is a sign test of the pairs that differ."""
    first, second = np.zeros((2, 500)), np.zeros((2, 500))
    first[0, :45] = second[1, :25] = 1.0
    found = paired_permutation(first, second, 1, resamples=20_000)
    exact = stats.binomtest(45, 70).pvalue
    assert found.p_value == pytest.approx(exact, abs=4 * math.sqrt(exact / 20_000))
    assert found.smallest_p == 1 / 20_001


def test_random_swaps_come_close_to_all_swaps(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = np.random.default_rng(2).normal(size=(2, 3, 4))
    exact = paired_permutation(first + 0.5, second, 0)
    assert exact.p_value == pytest.approx(enumerated(first + 0.5 - second))
    monkeypatch.setattr(statistics, "CHUNK", 1_000)
    drawn = paired_permutation(first + 0.5, second, 0, resamples=4_000)
    assert drawn.smallest_p == 1 / 4_001
    assert drawn.p_value == pytest.approx(exact.p_value, abs=0.03)


def test_sums_that_differ_by_rounding_alone_are_equal() -> None:
    """Of the eight sums of ±0.1 ± 0.2 ± 0.3 three pairs are as far out as that of 0.1 + 0.2 − 0.3: all are hits."""
    assert paired_permutation([[0.1, 0.2, 0.0]], [[0.0, 0.0, 0.3]], 0).p_value == 1.0
    assert paired_seeds([0.1, 0.2, 0.3], [0.0, 0.0, 0.6]).p_value == 1.0


def test_a_paired_test_is_symmetric_and_depends_on_its_seed_alone(
    under_two_global_seeds: Callable[..., tuple[Any, Any]],
) -> None:
    first, second = np.random.default_rng(4).normal(size=(2, 5, 30))
    one, other = under_two_global_seeds(lambda: paired_permutation(first, second, 9, resamples=500))
    assert one == other
    swapped = paired_permutation(second, first, 9, resamples=500)
    assert swapped == (-one.difference, *one[1:])
    assert paired_permutation(first, second, 10, resamples=500).p_value != one.p_value


def test_p_is_uniform_where_nothing_differs() -> None:
    draws = np.random.default_rng(5).normal(size=(400, 2, 2, 20))
    found = np.array([paired_permutation(first, second, i, 199).p_value for i, (first, second) in enumerate(draws)])
    assert stats.kstest(found, "uniform").pvalue > 0.01
    assert 0.02 < (found <= 0.05).mean() < 0.09


def test_means_over_seeds_swap_whole_samples() -> None:
    """Samples that favour the same method in every seed: pairs are then too sure, whole samples keep the level."""
    generator = np.random.default_rng(6)
    pairs, samples = [], []
    for seed in range(200):
        scores = generator.normal(size=60) + 0.5 * generator.normal(size=(5, 60))
        pairs.append(paired_permutation(scores, np.zeros_like(scores), seed, 199).p_value <= 0.05)
        means = scores.mean(axis=0, keepdims=True)
        samples.append(paired_permutation(means, np.zeros_like(means), seed, 199).p_value <= 0.05)
    assert np.mean(pairs) > 0.2
    assert 0.01 < np.mean(samples) < 0.1


def test_seeds_are_tested_exactly() -> None:
    first, second = np.array([0.9, 0.8, 0.7, 0.75, 0.6]), np.array([0.5, 0.85, 0.6, 0.7, 0.4])
    found = paired_seeds(first, second)
    assert found.difference == pytest.approx(0.14)
    assert found.p_value == pytest.approx(enumerated(first - second)) == pytest.approx(6 / 32)
    assert (found.smallest_p, found.n) == (2 / 32, 5)
    assert paired_seeds([1.0], [0.5]) == (0.5, 1.0, 1.0, 1)
    assert paired_seeds(np.ones(16), np.zeros(16)).p_value == 2 / 2**16


def test_an_unknown_score_makes_the_test_unknown() -> None:
    for score in (math.nan, math.inf):
        for found in (paired_permutation([[score, 1.0]], [[score, 0.0]], 0), paired_seeds([score], [1.0])):
            assert all(math.isnan(value) for value in found[:3])


def test_paired_scores_must_agree_in_shape() -> None:
    with pytest.raises(ValueError, match=r"scores of shapes \(2, 3\) and \(2, 4\); needed is one shape \(S, N\)"):
        paired_permutation(np.zeros((2, 3)), np.zeros((2, 4)), 0)
    with pytest.raises(ValueError, match=r"scores of shape \(3,\); needed is \(S, N\), and not empty"):
        paired_permutation(np.zeros(3), np.zeros(3), 0)
    with pytest.raises(ValueError, match=r"scores of shape \(0, 4\); needed"):
        paired_permutation(np.zeros((0, 4)), np.zeros((0, 4)), 0)
    with pytest.raises(ValueError, match=r"scores of shape \(2, 3\); needed is \(S,\), and not empty"):
        paired_seeds(np.zeros((2, 3)), np.zeros((2, 3)))
    with pytest.raises(ValueError, match="17 seeds given; allowed are 1 to 16"):
        paired_seeds(np.zeros(17), np.zeros(17))


# Holm


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert holm([0.2]) == pytest.approx([0.2])


def test_an_unknown_p_is_no_test() -> None:
    given = np.array([math.nan, 0.04, 0.01])
    assert holm(given) == pytest.approx([math.nan, 0.04, 0.02], nan_ok=True)
    assert given[2] == 0.01  # the caller's array is left alone
    assert np.isnan(holm([math.nan])).all()


def test_holm_needs_probabilities() -> None:
    with pytest.raises(ValueError, match=r"p values between 0 and 1 are needed, got -0\.1 to 0\.5"):
        holm([0.5, -0.1, math.nan])
    with pytest.raises(ValueError, match=r"p values of shape \(0,\); needed is \(T,\)"):
        holm([])


# Modalities


def test_shapley_of_two_by_hand() -> None:
    """v(∅) = 0.5, v(a) = 0.7, v(b) = 0.6, v(ab) = 0.9: a adds 0.2 as the first and 0.3 as the second."""
    assert shapley([0.7, 0.6, 0.9], TWO, 0.5) == pytest.approx({"a": 0.25, "b": 0.15})


def test_shapley_of_three_by_hand() -> None:
    """The glove game: a has a left glove, b and c a right one each; a pair is worth 1."""
    values = {"a": 0, "b": 0, "c": 0, "a-b": 1, "a-c": 1, "b-c": 0, "a-b-c": 1}
    expected = {"a": 2 / 3, "b": 1 / 6, "c": 1 / 6}
    assert shapley([values[name] for name in THREE.names], THREE, 0.0) == pytest.approx(expected)


def over_orders(values: Any, combinations: Combinations, empty: float) -> dict[str, float]:
    """What each modality adds, averaged over every order in which they may come."""
    known = {frozenset(): empty} | dict(zip(map(frozenset, combinations.members), values, strict=True))
    orders = list(itertools.permutations(range(len(combinations.modalities))))
    added = dict.fromkeys(combinations.modalities, 0.0)
    for order in orders:
        for place, m in enumerate(order):
            step = known[frozenset(order[: place + 1])] - known[frozenset(order[:place])]
            added[combinations.modalities[m]] += step / len(orders)
    return added


@pytest.mark.parametrize("count", [2, 3, 5])
def test_shapley_is_the_mean_over_all_orders(count: int) -> None:
    combinations = all_combinations([f"m{m}" for m in range(count)])
    values = np.random.default_rng(count).random(len(combinations))
    found = shapley(values, combinations, 0.3)
    assert found == pytest.approx(over_orders(values, combinations, 0.3))
    assert sum(found.values()) == pytest.approx(values[combinations.full] - 0.3)


def test_a_modality_without_signal_is_worth_nothing_among_eight() -> None:
    combinations = all_combinations([f"m{m}" for m in range(8)])
    worth = np.array([0.0, *np.linspace(0.1, 0.4, 7)])
    found = shapley(np.sqrt(combinations.masks @ worth), combinations, 0.0)
    assert found["m0"] == pytest.approx(0.0, abs=1e-12)
    assert list(found.values()) == sorted(found.values())
    added = shapley(combinations.masks @ worth + 0.2, combinations, 0.2)
    assert list(added.values()) == pytest.approx(worth)  # where values add up, each is worth what it adds


def test_shapley_needs_every_combination() -> None:
    some = Combinations(("a", "b"), ((0,), (0, 1)))
    with pytest.raises(ValueError, match="Shapley values need all 3 combinations, got 2"):
        shapley([0.1, 0.2], some, 0.0)
    with pytest.raises(ValueError, match="2 rows for 3 combinations"):
        shapley([0.1, 0.2], TWO, 0.0)
    with pytest.raises(ValueError, match=r"values of shape \(3, 1\); needed is \(C,\)"):
        shapley(np.zeros((3, 1)), TWO, 0.0)


def test_worse_with_more_by_hand() -> None:
    """Four samples; adding a to b hurts the first two, adding b to a the last one."""
    scores = [[0, 1, 0, 1], [1, 1, 0, 0], [0, 0, 1, 0]]  # a, b, a-b
    found = worse_with_more(np.array(scores, dtype=bool), TWO)
    assert found.by_modality == {"a": 0.5, "b": 0.5}
    assert found.share == 0.5
    scores[2] = [0, 1, 1, 0]
    assert worse_with_more(scores, TWO) == (0.25, {"a": 0.25, "b": 0.25})


@pytest.mark.parametrize("combinations", [THREE, evaluated_combinations([f"m{m}" for m in range(9)])])
def test_worse_with_more_counts_every_pair_that_was_evaluated(combinations: Combinations) -> None:
    scores = np.random.default_rng(8).integers(0, 3, size=(len(combinations), 7))
    falls: dict[str, list[bool]] = {name: [] for name in combinations.modalities}
    for (i, less), (j, more) in itertools.product(enumerate(combinations.members), repeat=2):
        if set(less) < set(more) and len(more) == len(less) + 1:
            (added,) = set(more) - set(less)
            falls[combinations.modalities[added]] += list(scores[j] < scores[i])
    found = worse_with_more(scores, combinations)
    assert found.by_modality == pytest.approx({name: np.mean(each) for name, each in falls.items()})
    assert found.share == pytest.approx(np.mean([fell for each in falls.values() for fell in each]))


def test_worse_with_more_where_it_is_not_known() -> None:
    alone = Combinations(("a", "b"), ((0,), (0, 1)))  # a is never added
    found = worse_with_more([[1.0], [0.0]], alone)
    assert (found.share, found.by_modality["b"]) == (1.0, 1.0)
    assert math.isnan(found.by_modality["a"])
    found = worse_with_more([[1.0], [math.nan], [0.0]], TWO)
    assert math.isnan(found.share)
    assert math.isnan(found.by_modality["a"])  # b's score without it is not known
    assert found.by_modality["b"] == 1.0
    with pytest.raises(ValueError, match="2 rows for 3 combinations"):
        worse_with_more(np.zeros((2, 4)), TWO)


@pytest.mark.parametrize("mode", list(Direction))
@pytest.mark.parametrize("objectives", [1, 2, 3])
def test_the_front_is_what_nothing_dominates(mode: Direction, objectives: int) -> None:
    generator = np.random.default_rng(0)
    for _ in range(20):
        points = generator.integers(0, 7, (25, objectives)).astype(float)  # with ties and equal points
        known = [
            not any((mode.sign * other >= mode.sign * own).all() and (other != own).any() for other in points)
            for own in points
        ]
        assert pareto_front(mode.sign * points).tolist() == known


def test_nan_is_on_no_front() -> None:
    assert pareto_front([[np.nan, 9.0], [1.0, 1.0], [2.0, np.nan]]).tolist() == [False, True, False]
