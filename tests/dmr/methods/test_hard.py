from __future__ import annotations

import torch
from torch import Tensor

from dmr.combinations import all_combinations
from dmr.methods.base import largest

THREE = all_combinations(["a", "b", "c"])  # the last one is the full one
SEEN = torch.ones(7, dtype=torch.bool)
SCORE = torch.tensor([0.3, 0.1, 0.7, 0.2, 0.6, 0.4, 0.9])


def chosen(score: Tensor, seen: Tensor, count: int | None) -> list[int]:
    got = largest(score, seen, THREE, count)
    assert got.shape == (7,)
    assert got.dtype == torch.bool
    return got.nonzero().flatten().tolist()


def test_the_largest_by_hand() -> None:
    assert chosen(SCORE, SEEN, 1) == [2]
    assert chosen(SCORE, SEEN, 2) == [2, 4]
    assert chosen(SCORE, SEEN, 0) == []


def test_null_takes_half_of_those_that_are_not_full() -> None:
    assert chosen(SCORE, SEEN, None) == [2, 4, 5]
    two = all_combinations(["a", "b"])
    assert largest(torch.tensor([0.1, 0.2, 0.9]), SEEN[:3], two, None).tolist() == [False, True, False]


def test_the_full_one_is_never_hard() -> None:
    assert chosen(SCORE, SEEN, 6) == [0, 1, 2, 3, 4, 5]
    assert chosen(SCORE, SEEN, 40) == [0, 1, 2, 3, 4, 5]


def test_what_was_not_seen_is_never_hard() -> None:
    seen = torch.tensor([True, True, False, False, True, False, True])
    assert chosen(SCORE, seen, 2) == [0, 4]
    assert chosen(SCORE, seen, 6) == [0, 1, 4]
    assert chosen(SCORE, torch.zeros(7, dtype=torch.bool), 3) == []


def test_a_score_that_is_not_a_number_of_what_was_not_seen_does_not_count() -> None:
    score = SCORE.clone()
    score[2] = torch.nan
    assert chosen(score, torch.tensor([True, True, False, True, True, True, True]), 2) == [4, 5]


def test_equal_scores_go_by_order() -> None:
    assert chosen(torch.ones(7), SEEN, 3) == [0, 1, 2]


def test_the_score_is_left_as_it_was() -> None:
    score = SCORE.double()
    largest(score, SEEN, THREE, 2)
    assert torch.equal(score, SCORE.double())
