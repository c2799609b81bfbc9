"""The examples in the docstrings of what people call from Python without a study."""

from __future__ import annotations

import doctest
import sys
from collections.abc import Callable
from typing import Any

import pytest

from dmr.evaluation import evaluate
from dmr.training import fit


@pytest.mark.parametrize("function", [fit, evaluate])
def test_the_example_gives_what_it_says(function: Callable[..., Any]) -> None:
    known = vars(sys.modules[function.__module__]).copy()
    (example,) = doctest.DocTestFinder(recurse=False).find(function, globs=known)
    assert example.examples
    assert doctest.DocTestRunner().run(example).failed == 0
