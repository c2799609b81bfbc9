from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.stats import chisquare

from dmr.data.dataset import DataError, MultimodalDataset
from dmr.data.missing import drop, take_away

MakeDataset = Callable[..., MultimodalDataset]


def share_of_patterns(rate: list[float]) -> dict[tuple[bool, ...], float]:
    """Every modality lost with its own rate; what would be nothing is one of all, each as likely."""
    shares = {
        kept: math.prod(1 - r if there else r for there, r in zip(kept, rate, strict=True))
        for kept in itertools.product([False, True], repeat=len(rate))
    }
    nothing = shares.pop((False,) * len(rate))
    for kept in shares:
        if sum(kept) == 1:
            shares[kept] += nothing / len(rate)
    return shares


@pytest.mark.parametrize("rate", [[0.5, 0.5], [0.3, 0.3, 0.3], [0.9, 0.1, 0.5], [1.0, 1.0, 0.2], [0.0, 0.4]])
def test_what_is_kept_by_chance(rate: list[float]) -> None:
    kept = drop(np.ones((40_000, len(rate)), dtype=bool), np.array(rate), np.random.default_rng(3))
    expected = {pattern: share for pattern, share in share_of_patterns(rate).items() if share > 0}
    found = [int((kept == pattern).all(axis=1).sum()) for pattern in expected]
    assert sum(found) == 40_000
    assert chisquare(found, 40_000 * np.array(list(expected.values()))).pvalue > 1e-4


def test_what_a_sample_lacks_it_does_not_get() -> None:
    has = np.array([[True, True, False], [False, False, True], [True, False, True]] * 3000)
    kept = drop(has, np.array([0.6, 0.6, 0.6]), np.random.default_rng(0))
    assert not (kept & ~has).any()
    assert kept.any(axis=1).all()
    of_two = kept[::3, :2]
    counts = [int((of_two == pattern).all(axis=1).sum()) for pattern in ([1, 0], [0, 1], [1, 1])]
    assert chisquare(counts, 3000 * np.array([0.24 + 0.18, 0.24 + 0.18, 0.16])).pvalue > 1e-4


def test_rates_of_nothing_and_of_everything(make_dataset: MakeDataset) -> None:
    dataset = make_dataset(3, train=300)
    assert take_away(dataset, {"train": 0.0}, seed=0).splits["train"].has().all()
    one_left = take_away(dataset, {"train": 1.0}, seed=0).splits["train"].has()
    assert (one_left.sum(axis=1) == 1).all()
    assert chisquare(one_left.sum(axis=0)).pvalue > 1e-4
    never_a = take_away(dataset, {"train": {"a": 1.0}}, seed=0).splits["train"].has()
    assert never_a.tolist() == [[False, True, True]] * 300


def test_only_the_named_splits_change_and_the_data_set_stays(make_dataset: MakeDataset) -> None:
    dataset = make_dataset(2, test=12)
    changed = take_away(dataset, {"train": 0.5, "test": {"b": 0.5}}, seed=0)
    assert all(split.present is None for split in dataset.splits.values())
    assert changed.splits["val"] is dataset.splits["val"]
    assert changed.splits["test"].has()[:, 0].all()
    assert not changed.splits["test"].has()[:, 1].all()
    assert changed.splits["train"].inputs is dataset.splits["train"].inputs
    assert take_away(dataset, {}, seed=0).splits == dataset.splits


def test_a_split_by_rows_loses_what_its_own_samples_had(make_dataset: MakeDataset) -> None:
    dataset = make_dataset(2, train=40)
    rows = np.arange(1, 40, 2)
    had = np.tile([[True, True], [True, False]], (20, 1))
    had[1::4] = [False, True]
    part = replace(dataset.splits["train"], rows=rows, present=had)
    split = take_away(replace(dataset, splits={"train": part}), {"train": 0.9}, seed=0).splits["train"]
    assert split.present is not None
    assert split.present.shape == (40, 2)
    np.testing.assert_array_equal(split.has(), had[rows])  # each had a single one, which it keeps
    np.testing.assert_array_equal(split.rows, rows)


def test_only_the_seed_decides(
    make_dataset: MakeDataset, under_two_global_seeds: Callable[[Callable[[], Any]], tuple[Any, Any]]
) -> None:
    dataset = make_dataset(3, train=60, val=60)
    rates = {"train": 0.5, "val": 0.5}

    def has(seed: int = 4, split: str = "train", rates: Any = rates) -> Any:
        return take_away(dataset, rates, seed).splits[split].has()

    one, same = under_two_global_seeds(has)
    np.testing.assert_array_equal(one, same)
    np.testing.assert_array_equal(one, has(rates={"train": 0.5}))
    assert not np.array_equal(one, has(seed=5))
    assert not np.array_equal(one, has(split="val"))


def test_more_is_lost_at_a_higher_rate_and_nothing_comes_back(make_dataset: MakeDataset) -> None:
    dataset = make_dataset(3, train=400)
    some, more = (take_away(dataset, {"train": rate}, seed=0).splits["train"].has() for rate in (0.2, 0.4))
    complete = some.sum(axis=1) > 1
    assert not (more & ~some)[complete & (more.sum(axis=1) > 1)].any()
    assert more.sum() < some.sum()


@pytest.mark.parametrize(
    ("rates", "message"),
    [
        ({"test": 0.5}, "^missing.test: the data set has no such split; it has train, val$"),
        ({"val": {"a": 0.5, "x": 0.1}}, "^missing.val.x: the modalities are a, b$"),
    ],
)
def test_what_is_not_there_cannot_go_missing(make_dataset: MakeDataset, rates: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        take_away(make_dataset(2), rates, seed=0)
