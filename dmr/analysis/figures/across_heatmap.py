"""Methods by data sets: what each has on each, coloured by how far it is from the reference; beside them mean ranks and
the probability of improvement.

Letters: K methods, D data sets. Lengths are inches.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from dmr.analysis.comparison.across import Across, DataSet
from dmr.analysis.figures import style
from dmr.analysis.figures.combination_heatmap import BAR, DIVERGING, NARROWEST, ROW, draw_bar, draw_cells
from dmr.analysis.figures.style import GREY, INK, LABEL_LINE, LABEL_SIZE, MARGIN, PAD, PALETTE, SMALL_SIZE, text_width
from dmr.analysis.results.record_names import counted
from dmr.direction import Direction

CELL, PANEL, BETWEEN, AXIS, NARROWEST_BAR = 0.62, 1.7, 0.3, 0.42, 2.0
SLOPE = np.radians(35)  # of the names of data sets
NAMES = {"mean": "mean over combinations", "worst": "worst combination", "full": "all modalities"}
EVEN = 0.5  # the probability of improvement of a method over its like


def draw_standings(found: Across, summary: str) -> Figure:
    """Best mean rank first. A cell is nearly grey, and a point hollow, where the interval does not tell it from the
    reference.
    """
    ranks = found.ranks[found.ranks["summary"] == summary].sort_values("mean_rank", kind="stable").set_index("method")
    methods = ranks.index.tolist()
    labels = [style.worded(f"{method} (reference)" if method == found.reference else method) for method in methods]
    metrics = list(dict.fromkeys(map(_metric, found.data_sets)))
    several = len(metrics) > 1
    names = [style.worded(f"{one.study} ({_metric(one)})" if several else one.study) for one in found.data_sets]
    left, cells_width, height = MARGIN + PAD + max(map(text_width, labels)), CELL * len(names), ROW * len(methods)
    reach = max((x + 0.5) * CELL + text_width(name) * np.cos(SLOPE) for x, name in enumerate(names))
    head = max(map(text_width, names)) * np.sin(SLOPE) + LABEL_LINE
    beside, alone = left + max(cells_width + BETWEEN, reach), len(methods) == 1
    width = beside + PANEL + (0.0 if alone else BETWEEN + PANEL) + MARGIN
    below = AXIS + PAD + BAR + 2 * LABEL_LINE + MARGIN
    sheet = style.Sheet(width, head + height + below, _title(found, summary), _words(found, summary))
    top = sheet.top + head
    scale = _draw_levels(sheet.add_axes(left, top, cells_width, height), found, summary, methods)
    _name_sides(sheet.figure.axes[0], labels, names)
    axes = sheet.add_axes(beside, top, PANEL, height)
    _draw_points(axes, ranks[["mean_rank", "low", "high"]], (1.0, float(max(2, len(methods)))), None)
    axes.set_xlabel("mean rank, 1 is best", size=LABEL_SIZE)
    if not alone:
        pairs = found.pairs[(found.pairs["summary"] == summary) & (found.pairs["other"] == found.reference)]
        against = pairs.set_index("method").reindex(methods)[["probability", "low", "high"]]
        axes = sheet.add_axes(beside + PANEL + BETWEEN, top, PANEL, height)
        _draw_points(axes, against, (0.0, 1.0), EVEN)
        axes.set_xlabel("P that a run is better", size=LABEL_SIZE)
        label = f"{', '.join(metrics)}: better than {style.worded(found.reference)} by"
        bar = max(NARROWEST_BAR, text_width(label, SMALL_SIZE))
        draw_bar(sheet, left, top + height + AXIS + PAD, bar, scale, label, False)
    return sheet.figure


def _draw_levels(axes: Axes, found: Across, summary: str, methods: list[str]) -> ScalarMappable:
    """Means in cells of the colour of their difference to the reference; the scale of these."""
    means, gaps, told = _cells(found, summary, methods)
    limit = max(NARROWEST / 2, float(np.nanmax(np.abs(gaps.to_numpy()))))
    scale = ScalarMappable(Normalize(-limit, limit), colormaps[DIVERGING])
    draw_cells(axes, gaps, scale, "{:.3f}".format, SMALL_SIZE, muted=~told, written=means)
    return scale


def _name_sides(axes: Axes, labels: list[str], names: list[str]) -> None:
    axes.set_yticks(np.arange(len(labels)) + 0.5, labels, size=LABEL_SIZE)
    look: dict[str, Any] = {"rotation": np.degrees(SLOPE), "rotation_mode": "anchor", "size": LABEL_SIZE, "color": GREY}
    for x, name in enumerate(names):
        text = axes.annotate(name, (x + 0.5, 0), (0, 4), "data", "offset points", annotation_clip=False, **look)
        text.set_parse_math(False)


def _cells(found: Across, summary: str, methods: list[str]) -> tuple[pd.DataFrame, pd.DataFrame, np.ndarray]:
    """Means (K, D); how much better than the reference, 0 for itself; and False where that cannot be told from
    0.
    """
    studies = [one.study for one in found.data_sets]
    levels = found.levels[found.levels["summary"] == summary]
    means = levels.pivot(index="method", columns="study", values="mean").loc[methods, studies]
    signs = np.array([one.measure.mode.sign for one in found.data_sets])
    to_reference = found.differences[
        (found.differences["summary"] == summary) & (found.differences["other"] == found.reference)
    ]
    gaps, outcomes = (
        to_reference.pivot(index="method", columns="study", values=name).reindex(index=methods, columns=studies)
        for name in ("difference", "outcome")
    )
    gaps = gaps.astype(float) * signs
    gaps.loc[found.reference] = 0.0
    told = outcomes.isin(["win", "loss"])
    told.loc[found.reference] = True
    return means, gaps, told.to_numpy()


def _draw_points(axes: Axes, rows: pd.DataFrame, limits: tuple[float, float], even: float | None) -> None:
    """A value and the ends of its interval (K, 3), a row each; hollow where the interval includes what is `even`."""
    style.plain(axes)
    for row, (value, low, high) in enumerate(rows.to_numpy(dtype=float)):
        covers = even is not None and low <= even <= high
        axes.hlines(row + 0.5, low, high, color=PALETTE[0], lw=1.2, alpha=0.6)
        face = "white" if covers else PALETTE[0]
        axes.scatter([value], [row + 0.5], s=22, facecolor=face, edgecolor=PALETTE[0], lw=1.0, zorder=3)
    if even is not None:
        axes.axvline(even, color=INK, lw=0.8, zorder=1)
    margin = 0.05 * (limits[1] - limits[0])
    axes.set_xlim(limits[0] - margin, limits[1] + margin)
    axes.set_ylim(len(rows), 0)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.set_xticks(np.unique(np.linspace(*limits, 4).round()) if even is None else (limits[0], even, limits[1]))


def _metric(one: DataSet) -> str:
    return one.metric if one.measure.mode is Direction.MAX else f"{one.metric} ↓"


def _title(found: Across, summary: str) -> str:
    return f"{', '.join(one.study for one in found.data_sets)}: {NAMES.get(summary, summary)} by method and data set"


def _words(found: Across, summary: str) -> str:
    levels = found.levels[found.levels["summary"] == summary]
    counts = f"{counted(len(found.data_sets), 'data set')}, {counted(len(found.methods), 'method')}"
    words = f"split test, mean over {style.seeds_text(levels['seeds'].tolist())}; {counts}, best mean rank first"
    if any(one.measure.mode is Direction.MIN for one in found.data_sets):
        words += "; ↓: lower is better"
    words += "; lines: 95 % bootstrap intervals over runs"
    if len(found.methods) == 1:
        return words
    return (
        f"{words}; colour: better (blue) or worse (red) than {found.reference}, nearly grey where the 95 % t interval "
        f"of the difference, paired by seed, includes 0; P: that a run is better than one of {found.reference}, hollow "
        "where its interval includes 0.5"
    )
