"""Commands that start without Python's search for garbage end with it, and so does the start of training."""

from __future__ import annotations

import gc
from unittest.mock import MagicMock

import pytest

from dmr.studies.cli.app import collecting_later
from dmr.studies.driver.stage_driver import StageDriver


def test_it_is_off_inside_and_on_afterwards() -> None:
    assert collecting_later(lambda: int(gc.isenabled()))() == 0
    assert gc.isenabled()


def test_it_is_on_after_a_failure() -> None:
    @collecting_later
    def fails() -> int:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        fails()
    assert gc.isenabled()


def test_it_is_on_while_trials_run() -> None:
    driver = MagicMock(should_stop=lambda: False)
    driver.stage.complete = False
    driver.train = MagicMock(side_effect=lambda: seen.append(gc.isenabled()))
    seen: list[bool] = []
    collecting_later(lambda: bool(StageDriver.run(driver)))()
    assert seen == [True]
