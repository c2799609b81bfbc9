"""Statistics of order against enumeration, resampling and scipy."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from dmr.analysis.order_statistics import chances_to_be_best, mean_ranks, probabilities_of_improvement


def test_the_chances_to_be_best_are_those_of_all_choices() -> None:
    for count, drawn in itertools.product(range(1, 7), range(1, 7)):
        if drawn > count:
            with pytest.raises(ValueError, match=f"^the best of {drawn} of {count} trials: 1 to {count} can be drawn$"):
                chances_to_be_best(count, drawn)
            continue
        best = [max(choice) for choice in itertools.combinations(range(count), drawn)]
        shares = np.bincount(best, minlength=count) / len(best)
        assert chances_to_be_best(count, drawn) == pytest.approx(shares, abs=1e-15)


def test_many_trials_keep_their_chances_exact() -> None:
    exact = [math.comb(i - 1, 299) / math.comb(5_000, 300) for i in range(1, 5_001)]
    assert chances_to_be_best(5_000, 300) == pytest.approx(exact, rel=1e-11, abs=1e-300)


def test_the_probability_of_improvement_is_the_mean_mann_whitney_u() -> None:
    draw = np.random.default_rng(0)
    first = [draw.integers(0, 6, size=7), draw.integers(2, 9, size=5)]  # with ties
    second = [draw.integers(0, 6, size=4), draw.integers(2, 9, size=9)]
    expected = [stats.mannwhitneyu(a, b).statistic / (len(a) * len(b)) for a, b in zip(first, second, strict=True)]
    found = probabilities_of_improvement([*zip(first, second, strict=True)], seed=0)[0, 1]
    assert found.estimate == pytest.approx(np.mean(expected))
    assert found.n == 2
    drawn = []
    for _ in range(4_000):
        again = [[draw.choice(own, len(own)) for own in runs] for runs in (first, second)]
        drawn.append(
            np.mean([(a[:, None] > b).mean() + (a[:, None] == b).mean() / 2 for a, b in zip(*again, strict=True)])
        )
    assert (found.low, found.high) == pytest.approx(np.quantile(drawn, (0.025, 0.975)), abs=0.02)
    back = probabilities_of_improvement([*zip(first, second, strict=True)], seed=0)[1, 0]
    assert back.estimate == pytest.approx(1.0 - found.estimate)
    assert (back.low, back.high) == pytest.approx((1.0 - found.high, 1.0 - found.low))
    assert math.isnan(probabilities_of_improvement([[[1.0, math.nan], [1.0]]], seed=0)[0, 1].estimate)


def test_ranks_are_by_the_mean_over_runs_and_shared_where_equal() -> None:
    ranks, means = mean_ranks([[[3.0, 5.0], [4.0], [1.0, 1.0]], [[1.0], [2.0, 0.0], [9.0]]], seed=0)
    assert ranks.tolist() == [[1.5, 1.5, 3.0], [2.5, 2.5, 1.0]]
    assert [one.estimate for one in means] == [2.0, 2.0, 2.0]
    assert (means[0].low, means[0].high) == (1.5, 2.5), "each of its draws of 3 and 5 is below, at or above 4"
    draw = np.random.default_rng(1)
    apart = [[draw.random(5) + shift for shift in (0, 5, 10)] for _ in range(3)]
    assert [tuple(one) for one in mean_ranks(apart, seed=0)[1]] == [(r, r, r, 3) for r in (3.0, 2.0, 1.0)]
