from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from dmr.combinations import Combinations, all_combinations
from dmr.sampling import combination_probabilities, draw_combinations, within
from dmr.settings import SamplingSettings, Strategy

STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)


def of(count: int) -> Combinations:
    return all_combinations([f"m{index}" for index in range(count)])


def difficulties(count: int) -> torch.Tensor:
    return torch.linspace(0.3, 1.7, count, dtype=torch.float64)


@pytest.mark.parametrize("count", [2, 3, 5])
def test_uniform(count: int) -> None:
    got = combination_probabilities(of(count), SamplingSettings("uniform"))
    np.testing.assert_allclose(got, np.full(2**count - 1, 1 / (2**count - 1)), rtol=1e-14)


@given(st.integers(2, 6), st.floats(0.01, 1.0))
def test_bernoulli_enumerates_independent_modalities(count: int, keep: float) -> None:
    combinations = of(count)
    got = combination_probabilities(combinations, SamplingSettings("bernoulli", keep_prob=keep))
    none_kept = (1 - keep) ** count
    for member, probability in zip(combinations.members, got.tolist(), strict=True):
        kept = math.prod(keep if m in member else 1 - keep for m in range(count))
        assert probability == pytest.approx(kept / (1 - none_kept), rel=1e-9, abs=1e-15)


@pytest.mark.parametrize("count", [2, 3, 5])
def test_by_size(count: int) -> None:
    combinations = of(count)
    got = combination_probabilities(combinations, SamplingSettings("by_size"))
    expected = [1 / count / math.comb(count, len(member)) for member in combinations.members]
    np.testing.assert_allclose(got, expected, rtol=1e-14)


@pytest.mark.parametrize("full_prob", [0.0, 0.2, 0.5, 1.0])
def test_full_biased(full_prob: float) -> None:
    got = combination_probabilities(of(3), SamplingSettings("full_biased", full_prob=full_prob))
    np.testing.assert_allclose(got, [(1 - full_prob) / 6] * 6 + [full_prob], atol=1e-15)


@pytest.mark.parametrize(("temperature", "floor"), [(1.0, 0.1), (0.2, 0.1), (0.01, 0.3), (5.0, 1.0)])
def test_hardness_has_a_floor(temperature: float, floor: float) -> None:
    combinations, loss = of(3), [0.5, 0.1, 2.0, 0.3, 0.4, 0.2, 0.05]
    settings = SamplingSettings("hardness", temperature=temperature, floor=floor)
    got = combination_probabilities(combinations, settings, torch.tensor(loss))
    scaled = [math.exp((value - 2.0) / temperature) for value in loss]
    expected = [floor / 7 + (1 - floor) * value / sum(scaled) for value in scaled]
    np.testing.assert_allclose(got, expected, rtol=1e-6)
    assert got.min() >= floor / 7 - 1e-12


def test_hardness_before_and_while_difficulties_are_learned() -> None:
    settings = SamplingSettings("hardness", temperature=1.0, floor=0.1)
    uniform = torch.full((3,), 1 / 3, dtype=torch.float64)
    torch.testing.assert_close(combination_probabilities(of(2), settings), uniform)
    torch.testing.assert_close(combination_probabilities(of(2), settings, torch.full((3,), math.nan)), uniform)
    partly = combination_probabilities(of(2), settings, torch.tensor([1.0, math.nan, 3.0]))
    as_mean = combination_probabilities(of(2), settings, torch.tensor([1.0, 2.0, 3.0]))
    torch.testing.assert_close(partly, as_mean)
    with pytest.raises(ValueError, match=r"difficulty has shape \(7,\), there are 3 combinations"):
        combination_probabilities(of(2), settings, torch.ones(7))


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("count", [2, 3, 5, 9])
def test_probabilities_sum_to_one(strategy: Strategy, count: int) -> None:
    got = combination_probabilities(of(count), SamplingSettings(strategy), difficulties(2**count - 1))
    assert got.dtype == torch.float64
    assert got.shape == (2**count - 1,)
    assert got.sum().item() == pytest.approx(1.0, abs=1e-12)
    assert (got >= 0).all()


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("count", [2, 4])
def test_frequencies_follow_the_probabilities(strategy: Strategy, count: int) -> None:
    probabilities = combination_probabilities(of(count), SamplingSettings(strategy), difficulties(2**count - 1))
    drawn = draw_combinations(probabilities, (200, 200), torch.Generator().manual_seed(5))
    observed = np.bincount(drawn.flatten().numpy(), minlength=len(probabilities))
    assert chisquare(observed, probabilities.numpy() * drawn.numel()).pvalue > 1e-4


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_draws_come_from_the_generator_alone(
    strategy: Strategy, under_two_global_seeds: Callable[[Callable[[], Any]], tuple[Any, Any]]
) -> None:
    def sample(seed: int = 7) -> torch.Tensor:
        probabilities = combination_probabilities(of(4), SamplingSettings(strategy), difficulties(15))
        return draw_combinations(probabilities, (3, 100), torch.Generator().manual_seed(seed))

    one, other = under_two_global_seeds(sample)
    assert torch.equal(one, other)
    assert not torch.equal(one, sample(seed=8))
    assert one.dtype == torch.int64
    assert one.shape == (3, 100)


def test_draws_are_independent_across_samples_and_repetitions() -> None:
    probabilities = combination_probabilities(of(2), SamplingSettings("uniform"))
    drawn = draw_combinations(probabilities, (2, 30_000), torch.Generator().manual_seed(0))
    pairs = np.bincount((3 * drawn[0] + drawn[1]).numpy(), minlength=9)
    assert chisquare(pairs).pvalue > 1e-4
    neighbours = np.bincount((3 * drawn[0, :-1] + drawn[0, 1:]).numpy(), minlength=9)
    assert chisquare(neighbours).pvalue > 1e-4


@given(st.integers(0, 2**31), st.lists(st.booleans(), min_size=3, max_size=15).filter(any))
def test_what_has_probability_zero_is_never_drawn(seed: int, possible: list[bool]) -> None:
    weights = torch.tensor(possible, dtype=torch.float64)
    drawn = draw_combinations(weights / weights.sum(), (200,), torch.Generator().manual_seed(seed))
    assert set(drawn.tolist()) <= {index for index, allowed in enumerate(possible) if allowed}


# --- samples that lack modalities -------------------------------------------------------------------------------------


def patterns_of(count: int) -> np.ndarray:
    """(U, M) every non-empty set of modalities."""
    return np.array([row for row in itertools.product([False, True], repeat=count) if any(row)])


def test_within_by_hand() -> None:
    combinations = of(3)  # m0, m1, m2, m0-m1, m0-m2, m1-m2, all
    weights = torch.tensor([0.1, 0.2, 0.05, 0.15, 0.1, 0.1, 0.3], dtype=torch.float64)
    patterns = np.array([[True, True, False], [False, False, True], [False, True, True], [True, True, True]])
    expected = [
        [0.1 / 0.45, 0.2 / 0.45, 0, 0.15 / 0.45, 0, 0, 0],
        [0, 0, 1, 0, 0, 0, 0],
        [0, 0.2 / 0.35, 0.05 / 0.35, 0, 0, 0.1 / 0.35, 0],
        weights.tolist(),
    ]
    np.testing.assert_allclose(within(weights, combinations, patterns), expected, atol=1e-15)


@given(st.integers(2, 6), st.floats(0.01, 0.99))
def test_bernoulli_within_a_sample_is_bernoulli_of_what_it_has(count: int, keep: float) -> None:
    combinations, patterns = of(count), patterns_of(count)
    weights = combination_probabilities(combinations, SamplingSettings("bernoulli", keep_prob=keep))
    for pattern, row in zip(patterns, within(weights, combinations, patterns).tolist(), strict=True):
        has = set(np.flatnonzero(pattern))
        for member, probability in zip(combinations.members, row, strict=True):
            kept = math.prod(keep if m in member else 1 - keep for m in has) if set(member) <= has else 0.0
            assert probability == pytest.approx(kept / (1 - (1 - keep) ** len(has)), rel=1e-8, abs=1e-15)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("count", [2, 3, 5])
def test_within_is_proportional_to_the_strategy(strategy: Strategy, count: int) -> None:
    combinations, patterns = of(count), patterns_of(count)
    weights = combination_probabilities(combinations, SamplingSettings(strategy), difficulties(2**count - 1))
    got = within(weights, combinations, patterns)
    np.testing.assert_allclose(got.sum(1), 1.0, atol=1e-12)
    for pattern, row in zip(patterns, got, strict=True):
        fits = torch.tensor([set(member) <= set(np.flatnonzero(pattern)) for member in combinations.members])
        assert (row[~fits] == 0).all()
        np.testing.assert_allclose(row[fits] * weights[fits].sum(), weights[fits], rtol=1e-12)


@pytest.mark.parametrize("count", [2, 3, 5])
def test_where_no_combination_is_left_it_is_all_that_a_sample_has(count: int) -> None:
    combinations, patterns = of(count), patterns_of(count)
    only_full = torch.zeros(2**count - 1, dtype=torch.float64)
    only_full[combinations.full] = 1.0
    got = within(only_full, combinations, patterns)
    for pattern, row in zip(patterns, got, strict=True):
        assert combinations.members[int(row.argmax())] == tuple(np.flatnonzero(pattern))
        assert row.max() == row.sum() == 1.0


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_samples_that_have_everything_are_drawn_for_as_before(strategy: Strategy) -> None:
    combinations = of(4)
    weights = combination_probabilities(combinations, SamplingSettings(strategy), difficulties(15))
    own = within(weights, combinations, np.ones((1, 4), dtype=bool))[torch.zeros(50, dtype=torch.int64)]
    each = draw_combinations(own, (3, 50), torch.Generator().manual_seed(2))
    torch.testing.assert_close(each, draw_combinations(weights, (3, 50), torch.Generator().manual_seed(2)))


def test_each_sample_is_drawn_for_by_its_own_probabilities() -> None:
    own = torch.tensor([[0.2, 0.3, 0.5], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.5, 0.5, 0.0]], dtype=torch.float64)
    drawn = draw_combinations(own.repeat(5000, 1), (4, 20_000), torch.Generator().manual_seed(9))
    assert drawn.shape == (4, 20_000)
    assert drawn.is_contiguous()
    for sample, row in enumerate(own.numpy()):
        observed = np.bincount(drawn[:, sample::4].flatten().numpy(), minlength=3)
        assert (observed[row == 0] == 0).all()
        np.testing.assert_allclose(observed, 20_000 * row, atol=4 * math.sqrt(20_000 / 4))  # standard errors
    pairs = np.bincount((3 * drawn[0, ::4] + drawn[1, ::4]).numpy(), minlength=9)
    assert chisquare(pairs, 5000 * np.outer(own[0], own[0]).flatten()).pvalue > 1e-4


@given(st.integers(0, 2**31), st.lists(st.integers(1, 15), min_size=1, max_size=30), st.sampled_from(STRATEGIES))
def test_only_what_a_sample_has_is_drawn(seed: int, codes: list[int], strategy: Strategy) -> None:
    combinations = of(4)
    has = np.array([[bool(code >> m & 1) for m in range(4)] for code in codes])
    weights = combination_probabilities(combinations, SamplingSettings(strategy, full_prob=1.0), difficulties(15))
    drawn = draw_combinations(within(weights, combinations, has), (5, len(codes)), torch.Generator().manual_seed(seed))
    assert not (combinations.masks[drawn.numpy()] & ~has).any()


def test_draws_of_each_sample_come_from_the_generator_alone(
    under_two_global_seeds: Callable[[Callable[[], Any]], tuple[Any, Any]],
) -> None:
    combinations, has = of(3), patterns_of(3)[np.arange(100) % 7]
    weights = combination_probabilities(combinations, SamplingSettings("by_size"))

    def sample(seed: int = 7) -> torch.Tensor:
        return draw_combinations(within(weights, combinations, has), (2, 100), torch.Generator().manual_seed(seed))

    one, other = under_two_global_seeds(sample)
    assert torch.equal(one, other)
    assert not torch.equal(one, sample(seed=8))
