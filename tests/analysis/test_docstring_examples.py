"""The examples in the docstrings of what people call from Python, run on a study in a store."""

from __future__ import annotations

import doctest
from collections.abc import Callable
from typing import Any

import pytest

from dmr.analysis.comparison.comparison import compare
from dmr.analysis.results.artifacts import samples_reader
from dmr.analysis.results.load_study import load_study
from dmr.analysis.results.study_results import trial_values


@pytest.mark.parametrize("function", [load_study, compare])
def test_the_example_gives_what_it_says(function: Callable[..., Any], new_study: Callable[..., Any]) -> None:
    study = new_study(start=9_000)  # the newest of its name
    study.trial(0, [0.2] * 7)
    study.trial(1, [0.4] * 7)
    known = {"tracking_uri": study.uri, "samples_reader": samples_reader, "trial_values": trial_values}
    known |= {"load_study": load_study, "compare": compare}
    (example,) = doctest.DocTestFinder(recurse=False).find(function, globs=known)
    assert example.examples
    assert doctest.DocTestRunner().run(example).failed == 0
