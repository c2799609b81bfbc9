from __future__ import annotations

import gc

import pytest

from dmr.analysis.garbage import no_collecting


def test_it_is_off_inside_and_on_afterwards() -> None:
    assert no_collecting()(gc.isenabled)() is False
    assert gc.isenabled()


def test_it_is_on_after_a_failure() -> None:
    @no_collecting()
    def fails() -> int:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        fails()
    assert gc.isenabled()


def test_the_inner_one_of_two_leaves_it_off() -> None:
    with no_collecting():
        with no_collecting():
            pass
        assert not gc.isenabled()
    assert gc.isenabled()
