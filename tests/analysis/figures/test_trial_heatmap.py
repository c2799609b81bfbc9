from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from dmr.analysis.figures.trial_heatmap import difference_table, heatmap_table
from dmr.analysis.results.study_results import default_trials

Make = Callable[..., Any]
VALUES = [[0.5, 0.5, 0.5], [0.2, 0.4, 0.6], [0.6, 0.5, 0.9], [0.1, 0.1, 0.1]]


def test_differences_to_a_trial(make_study: Make) -> None:
    table = difference_table(make_study(("rgb", "ir"), VALUES), 2, 0)
    assert table.cells.index.tolist() == ["trial 2", "trial 1"]
    assert table.cells.loc["trial 1"].tolist() == pytest.approx([-0.3, -0.1, 0.1])
    assert "less trial 0" in table.title


def test_differences_to_the_files_defaults_of_each_method(make_study: Make) -> None:
    study = make_study(("rgb", "ir"), VALUES, methods=["a", "b", "a", "b"], defaults=(0, 1))
    assert default_trials(study, None) == {"a": 0, "b": 1}
    table = difference_table(study, 9, "defaults", default_trials(study))
    assert table.cells.loc["trial 2, a"].tolist() == pytest.approx([0.1, 0.0, 0.4])
    assert table.cells.loc["trial 3, b"].tolist() == pytest.approx([-0.1, -0.3, -0.5])
    assert len(table.cells) == 2


def test_trials_stopped_early_say_how_far_they_got(make_study: Make) -> None:
    stopped = {1: "8 of 60 epochs", 0: "9 of 60 epochs"}
    study = make_study(("rgb", "ir"), VALUES, stopped=stopped)
    table = heatmap_table(study, 3)
    assert table.cells.index.tolist() == ["trial 2", "trial 0 (9 of 60 epochs)", "trial 1 (8 of 60 epochs)"]
    assert "; 2 stopped early, after fewer epochs than the others" in table.subtitle
    table = difference_table(study, 9, 0)
    assert table.cells.index.tolist() == ["trial 2", "trial 1 (8 of 60 epochs)", "trial 3"]
    assert "; 1 stopped early, after fewer epochs than the others; trial 0" in table.subtitle
    assert "; trial 0, which is taken away, was stopped early (9 of 60 epochs)" in table.subtitle
    assert "stopped" not in heatmap_table(study, 1).subtitle


def test_what_there_is_nothing_to_compare_with(make_study: Make) -> None:
    study = make_study(("rgb", "ir"), VALUES)
    with pytest.raises(ValueError, match="trial 4 has no values; 2, 0, 1, 3 have"):
        difference_table(study, 9, 4)
    with pytest.raises(ValueError, match="not known which trial has the file's defaults"):
        difference_table(study, 9, "defaults", {})
    with pytest.raises(ValueError, match="there is no other trial to compare with"):
        difference_table(make_study(("rgb", "ir"), VALUES[:1]), 9, 0)
