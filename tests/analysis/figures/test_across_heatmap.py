from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import PathCollection

from dmr.analysis.comparison.across import Across, DataSet
from dmr.analysis.comparison.measure import Measure
from dmr.analysis.figures import style
from dmr.analysis.figures.across_heatmap import draw_standings
from dmr.combinations import all_combinations
from dmr.direction import Direction

METHODS = ("dmrnet", "a_method_with_a_long_name", "dropout")


def standings(methods: tuple[str, ...], studies: tuple[str, ...], outcomes: dict[str, str]) -> Across:
    """The first method is the reference; of the others each is 0.1 more than the one before it."""
    every = all_combinations(("a", "b"))
    modes = [Direction.MIN if study == "less" else Direction.MAX for study in studies]
    metrics = ["acer" if mode is Direction.MIN else "accuracy" for mode in modes]
    sets = [
        DataSet(study, study, metric, "all 3", {}, Measure("mean", mode, every, None), ())
        for study, metric, mode in zip(studies, metrics, modes, strict=True)
    ]
    cells = [("mean", s, m, 0.5 + 0.1 * n, 5) for s in studies for n, m in enumerate(methods)]
    gaps = [("mean", s, m, methods[0], 0.1 * n, outcomes[m]) for s in studies for n, m in enumerate(methods) if n]
    ranks = [("mean", m, n + 1.0, n + 0.5, n + 1.5) for n, m in enumerate(methods)]
    pairs = [("mean", m, methods[0], 0.7, 0.4 if outcomes[m] == "tie" else 0.6, 0.9) for m in methods[1:]]
    return Across(
        data_sets=tuple(sets),
        summaries=("mean",),
        methods=methods,
        reference=methods[0],
        levels=pd.DataFrame(cells, columns=["summary", "study", "method", "mean", "seeds"]),
        ranks=pd.DataFrame(ranks, columns=["summary", "method", "mean_rank", "low", "high"]),
        pairs=pd.DataFrame(pairs, columns=["summary", "method", "other", "probability", "low", "high"]),
        differences=pd.DataFrame(gaps, columns=["summary", "study", "method", "other", "difference", "outcome"]),
        notes=(),
    )


@pytest.mark.parametrize("studies", [("digits",), ("digits", "less", "a_study_with_a_long_name")], ids=len)
@pytest.mark.parametrize("methods", [METHODS[:1], METHODS], ids=len)
def test_no_text_covers_another(
    methods: tuple[str, ...], studies: tuple[str, ...], check_texts: Callable[..., Any]
) -> None:
    figure = draw_standings(standings(methods, studies, dict.fromkeys(methods, "win")), "mean")
    figure.canvas.draw()
    title, subtitle = figure.texts
    slanted = [text for text in figure.axes[0].texts if text.get_rotation() > 0]
    assert len(slanted) == len(studies)
    for text in slanted:  # their boxes overlap where their letters do not
        box = text.get_window_extent()
        assert box.x1 < figure.bbox.x1
        assert box.y1 < subtitle.get_window_extent().y0
        text.set_visible(False)
    check_texts(figure)
    assert "5 seeds" in subtitle.get_text()
    less = "less" in studies
    assert ("↓: lower is better" in subtitle.get_text()) == less
    assert any(text.get_text() == "less (acer ↓)" for text in slanted) == less
    assert title.get_text().startswith(studies[0])


def test_what_cannot_be_told_from_the_reference_is_grey_and_hollow() -> None:
    outcomes = {METHODS[1]: "win", METHODS[2]: "tie"}
    cells, _, points, _ = draw_standings(standings(METHODS, ("digits", "less"), outcomes), "mean").axes
    colours = np.asarray(cells.collections[0].get_array())[..., :3]  # (K, D, 3)
    spread = np.ptp(colours, axis=-1)
    assert (spread[1] > 0.1).all()
    assert (spread[2] < 0.1).all()
    assert colours[1, 0, 2] > colours[1, 0, 0], "blue: more accuracy"
    assert colours[1, 1, 0] > colours[1, 1, 2], "red: more of what is better the lower it is"
    assert [text.get_text() for text in cells.texts[:6]] == ["0.500"] * 2 + ["0.600"] * 2 + ["0.700"] * 2
    dots = [
        one for one in points.collections if isinstance(one, PathCollection) and np.isfinite(one.get_offsets()).all()
    ]
    assert [(one.get_facecolor()[0] == 1.0).all() for one in dots] == [False, True]


def test_names_may_be_changed() -> None:
    with style.wording({"dropout": "Dropout", "digits": "Digits"}) as used:
        draw_standings(standings(METHODS, ("digits",), dict.fromkeys(METHODS, "tie")), "mean")
    assert used.met == {"dropout", "digits"}
