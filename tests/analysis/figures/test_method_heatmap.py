from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import stats

from dmr.analysis.figures.combination_heatmap import draw_heatmap
from dmr.analysis.figures.method_heatmap import difference, method_difference_table, method_table

Make = Callable[..., Any]
A = np.array([[0.5, 0.6, 0.9], [0.7, 0.6, 0.8], [0.6, 0.6, 1.0]])
B = np.array([[0.4, 0.6, 0.5], [0.6, 0.7, 0.4], [0.5, 0.5, 0.6]])


def test_cells_are_means_over_seeds(make_comparison: Make) -> None:
    table = method_table(make_comparison(("rgb", "ir"), {"a best 1": A, "b best 1": B}, "b best 1"))
    assert table.cells.loc["b best 1"].tolist() == pytest.approx([0.5, 0.6, 0.5])
    assert table.summaries.loc["a best 1"].tolist() == pytest.approx([0.7, (0.5 + 0.6 + 0.6) / 3])
    assert "data digits, split test; mean over 3 seeds; 2 configurations" in table.subtitle


def test_differences_are_paired_by_seed_and_muted_where_zero_is_inside(make_comparison: Make) -> None:
    comparison = make_comparison(("rgb", "ir"), {"a best 1": A, "b best 1": B}, "b best 1")
    table = method_difference_table(comparison)
    assert table.cells.loc["a best 1"].tolist() == pytest.approx([0.1, 0.0, 0.4])
    found = difference(comparison.entries[0], comparison.entries[1])
    known = stats.ttest_rel(A[:, 2], B[:, 2]).confidence_interval(0.95)
    assert (found.low[2], found.high[2]) == pytest.approx((known.low, known.high))
    assert table.muted is not None
    assert table.muted.tolist() == [[False, True, False]]
    cells = draw_heatmap(table).axes[0]
    assert [text.get_text() for text in cells.texts[:3]] == ["+10", "0.0", "+40"]
    colours = np.asarray(cells.collections[0].get_array())[0]
    assert np.ptp(colours[1, :3]) < 0.05, "the muted one is grey"
    assert colours[2, 2] > colours[2, 0], "better is blue"


def test_only_seeds_in_common_are_paired(make_comparison: Make) -> None:
    seeds = {"a best 1": (1, 2, 3), "b best 1": (3, 4)}
    comparison = make_comparison(("rgb", "ir"), {"a best 1": A, "b best 1": B[:2]}, "b best 1", seeds=seeds)
    table = method_difference_table(comparison)
    assert table.cells.loc["a best 1"].tolist() == pytest.approx((A[2] - B[0]).tolist())
    assert table.muted is None
    assert "one seed, so that no interval says which differences are chance" in table.subtitle


def test_without_seeds_in_common_there_is_no_difference(make_comparison: Make) -> None:
    seeds = {"a best 1": (1, 2, 3), "b best 1": (3, 4, 5), "c best 1": (6, 7, 8)}
    comparison = make_comparison(("rgb", "ir"), {"a best 1": A, "b best 1": B, "c best 1": B}, "b best 1", seeds=seeds)
    assert method_difference_table(comparison).cells.index.tolist() == ["a best 1"]
    with pytest.raises(ValueError, match=r"^there is nothing to compare with c best 1$"):
        method_difference_table(replace(comparison, reference="c best 1"))


def test_lower_is_better_turns_the_colours(make_comparison: Make) -> None:
    table = method_difference_table(make_comparison(("rgb", "ir"), {"a best 1": A, "b best 1": B}, "b best 1", "min"))
    colours = np.asarray(draw_heatmap(table).axes[0].collections[0].get_array())[0]
    assert colours[2, 0] > colours[2, 2], "worse is red"
