from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from dmr.analysis.figures.missing_rates import RATES, draw_rates, expected_at, rate_table
from dmr.combinations import all_combinations, deployment_weights

Make = Callable[..., Any]


@pytest.mark.parametrize("count", [2, 3, 4])
def test_expected_is_the_mean_over_what_is_met(count: int) -> None:
    combinations = all_combinations([f"m{number}" for number in range(count)])
    values = np.random.default_rng(0).random(len(combinations))
    by_members = dict(zip(combinations.members, values, strict=True))
    for rate, found in zip(RATES, expected_at(values, combinations), strict=True):
        total = met = 0.0
        for works in itertools.product([True, False], repeat=count):
            chance = np.prod([1 - rate if one else rate for one in works])
            members = tuple(m for m, one in enumerate(works) if one)
            if members:
                met, total = met + chance, total + chance * by_members[members]
        assert found == pytest.approx(total / met)


def test_rows_are_how_trials_drew_combinations(make_study: Make) -> None:
    values = [[0.1 * trial, 0.0, 0.1 * trial] for trial in range(8)]
    strategy = ["uniform", "uniform", *["bernoulli"] * 6]
    keep = [None, None, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8]
    table = rate_table(
        make_study(("rgb", "ir"), values, {"sampling.strategy": strategy, "sampling.keep_prob": keep}), None
    )
    assert table.cells.index.tolist() == [
        "bernoulli, keep_prob 0.30 to 0.50 (3 trials)",
        "bernoulli, keep_prob 0.60 to 0.80 (3 trials)",
        "uniform (2 trials)",
    ]
    assert table.cells[0.0].tolist() == pytest.approx([0.3, 0.6, 0.05])  # medians; nothing missing: the full one
    assert "rows: trials by sampling.strategy, sampling.keep_prob" in table.subtitle


def test_a_method_is_not_taken_for_a_way_to_draw(make_study: Make) -> None:
    """Only one of two methods has searched how combinations are drawn: the other's trials are rows of their own."""
    values = [[0.5, 0.5, 0.1], [0.5, 0.5, 0.3], [0.5, 0.5, 0.9]]
    points = {"sampling.strategy": ["uniform", "bernoulli", "uniform"]}
    table = rate_table(make_study(("rgb", "ir"), values, points, methods=["a", "a", "b"]), None)
    assert table.cells.index.tolist() == ["a, bernoulli (1 trial)", "a, uniform (1 trial)", "b, uniform (1 trial)"]
    assert table.cells[0.0].tolist() == pytest.approx([0.3, 0.1, 0.9])


def test_trials_stopped_early_are_not_in_the_medians(make_study: Make) -> None:
    values = [[0.1, 0.1, 0.5], [0.1, 0.1, 0.1], [0.1, 0.1, 0.7]]
    points = {"sampling.strategy": ["uniform"] * 3}
    table = rate_table(make_study(("rgb", "ir"), values, points, stopped={1: "1 of 9 epochs"}), None)
    assert table.cells.index.tolist() == ["uniform (2 trials)"]
    assert table.cells[0.0].tolist() == pytest.approx([0.6])
    assert "rows: trials trained to their end (1 stopped early is left out) by sampling.strategy" in table.subtitle
    with pytest.raises(ValueError, match="no trial that was not stopped early has values"):
        rate_table(make_study(("rgb", "ir"), values[:1], stopped={0: "1 of 9 epochs"}), None)


def test_each_modality_may_have_a_rate_of_its_own(make_study: Make, check_texts: Make) -> None:
    """By hand: rgb never missing, ir in one of five: 0.8 of the full one and 0.2 of rgb alone."""
    study = make_study(("rgb", "ir"), [[0.5, 0.1, 0.9]])
    assert list(rate_table(study, None).cells) == list(RATES)
    table = rate_table(study, None, {"ir": 0.2})
    assert table.cells["in use"].tolist() == pytest.approx([0.8 * 0.9 + 0.2 * 0.5])
    assert "; in use (as asked): missing with ir 0.2;" in table.subtitle
    deployed = replace(study, tags={"deployment": '{"rgb": 0.99, "ir": 0.8}'})
    table = rate_table(deployed, None)
    every = all_combinations(("rgb", "ir"))
    odds = deployment_weights(every, {"rgb": 0.99, "ir": 0.8})
    assert table.cells["in use"].tolist() == pytest.approx([np.array([0.5, 0.1, 0.9]) @ odds])
    assert "; in use (the study's `deployment`): missing with rgb 0.01, ir 0.2;" in table.subtitle
    assert "in use" in [text.get_text() for text in check_texts(draw_rates(table))]


def test_without_a_searched_sampling_rows_are_configurations_else_methods(
    make_study: Make, make_comparison: Make
) -> None:
    study = make_study(("rgb", "ir"), [[0.1, 0.2, 0.9], [0.1, 0.2, 0.5]], methods=["a", "a"])
    table = rate_table(study, make_comparison(("rgb", "ir"), {"b best 1": [[0, 0, 0.4], [0, 0, 0.6]]}, "b best 1"))
    assert table.cells.index.tolist() == ["b best 1"]
    assert table.cells[0.0].tolist() == pytest.approx([0.5])
    assert "split test; one row per configuration" in table.subtitle
    table = rate_table(study, None)
    assert table.cells.index.tolist() == ["a (2 trials)"]
    assert table.cells[0.0].tolist() == pytest.approx([0.7])


def test_where_no_sample_has_all_modalities_rate_0_has_no_value(make_study: Make) -> None:
    study = make_study(("rgb", "ir"), [[0.1, 0.3, np.nan], [0.2, 0.6, np.nan]], methods=["a", "a"])
    table = rate_table(study, None)
    assert np.isnan(table.cells[0.0]).all()
    assert table.cells[0.5].tolist() == pytest.approx([0.3])  # median of (0.1 + 0.3) / 2 and (0.2 + 0.6) / 2
    assert "; no value for rate 0, since no sample of val has all modalities; columns: " in table.subtitle
    figure = draw_rates(table)
    assert [text.get_text() for text in figure.axes[0].texts if text.get_text() == "nan"] == []
