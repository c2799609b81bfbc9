from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmr.combinations import (
    EXTRA_EVALUATED,
    all_combinations,
    check_modalities,
    check_name_lengths,
    combination_name,
    deployment_weights,
    evaluated_combinations,
)


def names_of(count: int) -> tuple[str, ...]:
    return tuple(f"m{index}" for index in range(count))


def test_three_modalities_by_hand() -> None:
    combinations = all_combinations(["rgb", "depth", "ir"])
    assert combinations.names == ("rgb", "depth", "ir", "rgb-depth", "rgb-ir", "depth-ir", "rgb-depth-ir")
    assert combinations.sizes.tolist() == [1, 1, 1, 2, 2, 2, 3]
    assert combinations.masks.tolist() == [
        [True, False, False],
        [False, True, False],
        [False, False, True],
        [True, True, False],
        [True, False, True],
        [False, True, True],
        [True, True, True],
    ]
    assert combinations.full == 6
    assert combinations.complete


@pytest.mark.parametrize("count", range(2, 9))
def test_all_combinations_are_all_non_empty_subsets_once(count: int) -> None:
    combinations = all_combinations(names_of(count))
    subsets = {frozenset(np.flatnonzero(mask)) for mask in combinations.masks}
    assert len(combinations) == len(subsets) == 2**count - 1
    assert frozenset() not in subsets
    assert list(combinations.members) == sorted(combinations.members, key=lambda member: (len(member), member))
    assert combinations.sizes.tolist() == combinations.masks.sum(axis=1).tolist()
    assert evaluated_combinations(names_of(count)) == combinations


@given(st.data())
def test_a_combination_is_found_whatever_the_order_of_its_modalities(data: st.DataObject) -> None:
    combinations = all_combinations(names_of(data.draw(st.integers(2, 6))))
    row = data.draw(st.integers(0, len(combinations) - 1))
    shuffled = data.draw(st.permutations(combinations.names[row].split("-")))
    assert combinations.index("-".join(shuffled)) == row
    assert combination_name(combinations.modalities, shuffled) == combinations.names[row]


@pytest.mark.parametrize("count", [9, 12])
def test_beyond_eight_singles_full_one_missing_and_a_sample(
    count: int, under_two_global_seeds: Callable[[Callable[[], Any]], tuple[Any, Any]]
) -> None:
    one, other = under_two_global_seeds(lambda: evaluated_combinations(names_of(count), seed=3))
    assert one == other
    everything = tuple(range(count))
    required = {everything, *((m,) for m in everything), *itertools.combinations(everything, count - 1)}
    assert required <= set(one.members)
    assert len(set(one.members)) == len(one) == 2 * count + 1 + EXTRA_EVALUATED
    assert list(one.members) == sorted(one.members, key=lambda member: (len(member), member))
    assert one.members[one.full] == everything
    assert not one.complete
    assert evaluated_combinations(names_of(count), seed=4) != one


def test_unknown_and_not_evaluated_combinations() -> None:
    combinations = evaluated_combinations(names_of(10))
    absent = next(member for member in itertools.combinations(range(10), 5) if member not in set(combinations.members))
    with pytest.raises(ValueError, match="is not among the 85 evaluated ones"):
        combinations.index("-".join(f"m{m}" for m in absent))
    with pytest.raises(ValueError, match="combination of lidar, m0: the modalities are m0, m1"):
        combinations.index("m0-lidar")
    with pytest.raises(ValueError, match="combination of nothing"):
        combination_name(["a", "b"], [])


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a"], "1 modalities given; allowed are 2 to 16"),
        (names_of(17), "17 modalities given"),
        (["a", "b-c"], "modality name 'b-c' must match"),
        (["a", "1b"], "modality name '1b' must match"),
        (["a", "b\n"], "must match"),
        (["a", "a"], "modality names must differ: a, a"),
    ],
)
def test_bad_modalities(names: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_modalities(names)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a" * 115, "b" * 114], "modality name 'a{115}' has 115 letters; allowed are 100"),
        ([f"m{n:024d}" for n in range(12)], "the names of 12 modalities have 300 letters together; allowed are 209"),
        (["a" * 100, "b" * 100, "c" * 19], "the names of 3 modalities have 219 letters together; allowed are 218"),
    ],
)
def test_names_too_long_to_keep(names: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        check_name_lengths(names)


def test_the_longest_names_fit() -> None:
    check_name_lengths(["a" * 100, "b" * 100, "c" * 18])


def test_deployment_weights_by_hand() -> None:
    combinations = all_combinations(["a", "b"])  # a, b, a-b
    weights = deployment_weights(combinations, {"a": 0.9, "b": 0.5})
    met = [0.9 * 0.5, 0.1 * 0.5, 0.9 * 0.5]  # neither works with 0.05
    np.testing.assert_allclose(weights, np.array(met) / 0.95, rtol=1e-15)
    np.testing.assert_array_equal(deployment_weights(combinations, {}), [0, 0, 1])
    np.testing.assert_allclose(deployment_weights(combinations, {"a": 0.25}), [0, 0.75, 0.25])


@given(st.lists(st.floats(0.05, 1.0), min_size=2, max_size=5))
def test_deployment_weights_against_enumerated_worlds(odds: list[float]) -> None:
    combinations = all_combinations(names_of(len(odds)))
    weights = deployment_weights(combinations, dict(zip(combinations.modalities, odds, strict=True)))
    for member, weight in zip(combinations.members, weights, strict=True):
        world = math.prod(p if m in member else 1 - p for m, p in enumerate(odds))
        assert weight == pytest.approx(world / (1 - math.prod(1 - p for p in odds)), rel=1e-9, abs=1e-12)
    assert weights.sum() == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("odds", "message"),
    [
        ({"lidar": 0.5}, "lidar: the modalities are a, b"),
        ({"a": 1.5}, "a: a probability between 0 and 1 is needed, got 1.5"),
        ({"a": math.nan}, "a: a probability between 0 and 1 is needed, got nan"),
        ({"a": 0.0, "b": 0.0}, "these odds leave no combination possible"),
    ],
)
def test_bad_odds(odds: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        deployment_weights(all_combinations(["a", "b"]), odds)
