"""Which trials are the best, and whose checkpoints stay."""

from __future__ import annotations

import random

import pytest

from dmr.studies.search.checkpoint_retention import CheckpointRetention
from dmr.studies.search.ranking import Ranked, best_first, front


def kept(keeper: CheckpointRetention, trials: list[tuple[int, tuple[float, ...], str | None, bool]]) -> list[int]:
    """The trials that are left after all have ended, told from what was to be removed."""
    left: set[int] = set()
    for number, values, block, always in trials:
        left.add(number)
        left -= set(keeper.add(Ranked(number, values), block, always))
    assert left == {number for number, *_ in trials if keeper.holds(number)}
    return sorted(left)


def test_the_best_stay_of_equal_ones_the_earlier_and_the_files_defaults() -> None:
    values = [0.1, 0.5, 0.9, 0.5, 0.7, 0.5]
    trials = [(number, (value,), None, number == 0) for number, value in enumerate(values)]
    assert kept(CheckpointRetention(3), trials) == [0, 1, 2, 4]
    assert kept(CheckpointRetention(1), trials) == [0, 2]
    assert kept(CheckpointRetention(None), trials) == list(range(6))


def test_each_block_has_its_best() -> None:
    trials = [(number, (0.1 * number,), "ab"[number % 2], False) for number in range(8)]
    assert kept(CheckpointRetention(2), trials) == [4, 5, 6, 7]


def test_with_several_objectives_the_pareto_front_stays() -> None:
    values = [(0.9, -5.0), (0.5, -1.0), (0.8, -2.0), (0.8, -3.0), (0.4, -4.0), (0.9, -5.0)]
    trials = [(number, pair, None, False) for number, pair in enumerate(values)]
    assert [one.number for one in front([Ranked(*trial[:2]) for trial in trials])] == [0, 1, 2, 5]
    assert kept(CheckpointRetention(1), trials) == [0, 1, 2, 5]
    assert kept(CheckpointRetention(4), trials) == [0, 1, 2, 3, 5]


@pytest.mark.parametrize("objectives", [1, 2])
def test_what_is_removed_as_trials_end_is_what_the_whole_study_does_not_need(objectives: int) -> None:
    draw = random.Random(objectives)
    trials = [
        (number, tuple(draw.choice((0.1, 0.2, 0.3, 0.4)) for _ in range(objectives)), None, number == 7)
        for number in range(60)
    ]
    every = [Ranked(number, values) for number, values, _, _ in trials]
    needed = {one.number for one in best_first(every)[:5]} | {7}
    if objectives > 1:
        needed |= {one.number for one in front(every)}
    assert kept(CheckpointRetention(5), trials) == sorted(needed)
