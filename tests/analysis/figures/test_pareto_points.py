from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from dmr.analysis.figures import all_figures
from dmr.analysis.figures.label_placement import place_labels
from dmr.analysis.figures.pareto import draw_pareto
from dmr.analysis.figures.pareto_points import entry_points, trial_points
from dmr.analysis.statistics import mean_interval

Make = Callable[..., Any]


def test_points_of_trials(make_study: Make) -> None:
    study = make_study(("rgb", "ir"), [[0.2, 0.4, 0.9], [0.5, 0.4, 0.7], [0.1, 0.3, 0.6]], defaults=(1,))
    frame = trial_points(study, {"dmrnet": 1}).frame
    assert frame["full"].tolist() == [0.9, 0.7, 0.6]
    assert frame["worst"].tolist() == [0.2, 0.4, 0.1]
    assert frame["front"].tolist() == [True, True, False]
    assert frame["role"].tolist() == ["", "defaults best", ""]


def test_where_no_sample_has_all_modalities_there_are_no_points(make_study: Make) -> None:
    values = [[0.2, 0.4, np.nan], [0.5, 0.4, np.nan]]
    with pytest.raises(ValueError, match=r"^data digits: no sample of val has all modalities$"):
        trial_points(make_study(("rgb", "ir"), values), {})
    with pytest.raises(ValueError, match=r"no trial has values to draw yet$"):
        trial_points(make_study(("rgb", "ir"), []), {})


def test_points_of_configurations_have_intervals_over_seeds(make_comparison: Make) -> None:
    values = np.array([[0.2, 0.4, 0.9], [0.5, 0.3, 0.8], [0.4, 0.6, 0.7]])
    frame = entry_points(
        make_comparison(("rgb", "ir"), {"a best 1, defaults": values}, "a best 1, defaults"), "a best 1, defaults"
    ).frame
    worst = mean_interval([0.2, 0.3, 0.4])
    row = frame.iloc[0]
    assert (row["full"], row["worst"]) == pytest.approx((0.8, 0.3))
    assert (row["worst_low"], row["worst_high"]) == (worst.low, worst.high)
    assert row["role"] == "defaults best"


def test_the_best_of_the_confirmed_is_what_val_chose_not_what_test_would(
    make_study: Make, make_comparison: Make
) -> None:
    """On val `a` was best, on test `b` is: the entries come in the order of test."""
    values = {"b best 1": [[0.9] * 3], "a best 1": [[0.5] * 3]}
    comparison = make_comparison(("rgb", "ir"), values, "a best 1")  # trial 0 is `b`, 1 is `a`
    search = make_study(("rgb", "ir"), [[0.6] * 3, [0.7] * 3], methods=["b", "a"])
    panels: list[Any] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(all_figures, "draw_pareto", lambda found, *_: panels.extend(found) or Figure())
        list(all_figures.study_figures(search, None, comparison, lambda *_: None))
    assert [panel.frame["role"].to_dict() for panel in panels] == [
        {"0": "", "1": " best"},
        {"b best 1": "", "a best 1": " best"},
    ]


def test_a_trial_stopped_early_is_marked(make_study: Make, check_texts: Make) -> None:
    study = make_study(("rgb", "ir"), [[0.2, 0.4, 0.9], [0.5, 0.4, 0.7]], stopped={1: "2 of 9 epochs"})
    points = trial_points(study, {})
    assert points.frame["stopped"].tolist() == [False, True]
    assert (
        points.heading == "search: 2 trials, 1 of them stopped early, split val, one seed per trial, all 3 combinations"
    )
    figure = draw_pareto([points], "title", "subtitle")
    assert "stopped early" in [text.get_text() for text in check_texts(figure)]


def test_labels_that_find_no_place_are_left_out(check_texts: Make) -> None:
    figure = Figure((3, 3))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    points = np.full((60, 2), 0.5)
    labels = [f"a configuration {number}" for number in range(60)]
    written = place_labels(axes, points, np.empty((0, 2)), points, labels)
    assert 3 < len(written) < 60
    assert len(check_texts(figure)) == len(written)
