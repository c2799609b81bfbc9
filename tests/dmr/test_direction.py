"""Which way a metric is better, asked in every way there is."""

from __future__ import annotations

import json

import pytest

from dmr.direction import Direction


@pytest.mark.parametrize(
    ("name", "sign", "high_is_better", "best", "worst"), [("max", 1.0, True, 3.0, 1.0), ("min", -1.0, False, 1.0, 3.0)]
)
def test_a_direction(name: str, sign: float, high_is_better: bool, best: float, worst: float) -> None:
    direction = Direction(name)
    assert direction.sign == sign
    assert direction.better(3.0, than=1.0) is high_is_better
    assert direction.better(1.0, than=3.0) is not high_is_better
    assert not direction.better(2.0, than=2.0)
    assert (direction.best([2.0, 3.0, 1.0]), direction.worst([2.0, 3.0, 1.0])) == (best, worst)
    assert json.dumps(direction) == f'"{name}"'
    assert f"{direction}" == name == direction


def test_a_word_that_is_no_direction_is_refused() -> None:
    with pytest.raises(ValueError, match="'highest' is not a valid Direction"):
        Direction("highest")
