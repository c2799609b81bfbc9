"""The Pareto figure: full against worst, the front joined, the best and the file's defaults marked.

Lengths are inches.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from dmr.analysis.figures import style
from dmr.analysis.figures.label_placement import place_labels
from dmr.analysis.figures.pareto_points import Points
from dmr.analysis.figures.style import GREY, LABEL_SIZE, MARGIN, MARKERS, PALETTE, text_width
from dmr.analysis.results.record_names import DEFAULTS
from dmr.direction import Direction

PANEL, LEFT, HEAD, BELOW, BETWEEN = 3.3, 0.6, 0.35, 0.5, 0.75
ENTRY, SYMBOL, SPACE = 0.17, 0.28, 0.12
FEW = 14  # points that are all named
NARROWEST = 0.01  # of a scale, where all points are one
SAMPLES = 24
ROLES = {"best": ("o", 90, "best on val"), DEFAULTS: ("s", 60, "the file's defaults")}
EMPTY: dict[str, Any] = {"facecolor": "white", "lw": 0.8}  # a trial stopped early
HOLLOW: dict[str, Any] = {"facecolor": "none", "edgecolor": "black", "lw": 1}

Floats = npt.NDArray[np.float64]


class KeyEntry(NamedTuple):
    """A symbol of the key (`marker` None: the front's line) and its text."""

    text: str
    marker: str | None
    look: dict[str, Any]


def draw_pareto(panels: Sequence[Points], title: str, subtitle: str) -> Figure:
    """A panel each, better on the right and at the top; below them the key."""
    methods = list(dict.fromkeys(str(method) for panel in panels for method in panel.frame["method"]))
    several = 1 < len(methods) <= len(PALETTE)
    styles = dict.fromkeys(methods, ("#8c8c8c", "o"))
    if several:
        styles = dict(zip(methods, zip(PALETTE, MARKERS, strict=True), strict=False))
    early = any(panel.frame["stopped"].any() for panel in panels)
    entries = [
        *(
            KeyEntry(style.worded(m), shape, {"color": colour, "s": 24, "lw": 0})
            for m, (colour, shape) in styles.items()
            if several
        ),
        *(KeyEntry(text, shape, HOLLOW | {"s": size}) for shape, size, text in ROLES.values()),
        *([KeyEntry("stopped early", "o", EMPTY | {"edgecolor": GREY, "s": 24})] if early else []),
        KeyEntry("front", None, {"color": GREY, "lw": 1}),
    ]
    width = 2 * MARGIN + LEFT + len(panels) * PANEL + (len(panels) - 1) * BETWEEN + 0.1
    places = _key_places(entries, width - 2 * MARGIN)
    key = ENTRY * (places[-1][0] + 1)
    sheet = style.Sheet(width, HEAD + PANEL + BELOW + key + MARGIN, title, subtitle)
    for number, panel in enumerate(panels):
        axes = sheet.add_axes(MARGIN + LEFT + number * (PANEL + BETWEEN), sheet.top + HEAD, PANEL, PANEL)
        _draw_panel(axes, panel, styles)
    axes = sheet.add_axes(MARGIN, sheet.top + HEAD + PANEL + BELOW, width - 2 * MARGIN, key)
    _draw_key(axes, entries, places, width - 2 * MARGIN)
    return sheet.figure


def _draw_panel(axes: Axes, panel: Points, styles: dict[str, tuple[str, str]]) -> None:
    frame = panel.frame
    style.plain(axes, f"{panel.metric}, all modalities present", f"{panel.metric}, worst combination")
    front = frame[frame["front"]].sort_values(["full", "worst"], ascending=[True, False])
    axes.plot(front["full"], front["worst"], color=GREY, lw=1, zorder=2)
    for method, rows in frame.groupby("method", sort=False):
        colour, marker = styles[str(method)]
        early, others = rows[rows["stopped"]], rows[~rows["stopped"]]
        axes.scatter(others["full"], others["worst"], s=18, color=colour, marker=marker, lw=0, alpha=0.8, zorder=3)
        axes.scatter(early["full"], early["worst"], s=16, edgecolor=colour, marker=marker, zorder=2.5, **EMPTY)
        ends = rows.dropna(subset=["full_low", "worst_low"])
        axes.hlines(ends["worst"], ends["full_low"], ends["full_high"], color=colour, lw=0.8, alpha=0.7)
        axes.vlines(ends["full"], ends["worst_low"], ends["worst_high"], color=colour, lw=0.8, alpha=0.7)
    for role, (marker, size, _) in ROLES.items():
        rows = frame[frame["role"].str.contains(role)]
        axes.scatter(rows["full"], rows["worst"], s=size, marker=marker, zorder=4, **HOLLOW)
    axes.margins(0.12)
    axes.set_xlim(*_widened(axes.get_xlim(), panel.mode))
    axes.set_ylim(*_widened(axes.get_ylim(), panel.mode))
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    heading = "\n".join(style.wrapped(panel.heading, PANEL))
    axes.annotate(heading, (0, 1), (0, 4), "axes fraction", "offset points", size=LABEL_SIZE, color=GREY)
    named = frame if len(frame) <= FEW else frame[frame["front"] | frame["role"].str.contains("best")]
    named = named.sort_values(["front", "full"], ascending=False, kind="stable")
    points, at = (rows[["full", "worst"]].to_numpy(dtype=float) for rows in (frame, named))
    place_labels(axes, points, _along(front, frame), at, [style.worded(str(label)) for label in named.index])


def _along(front: pd.DataFrame, frame: pd.DataFrame) -> Floats:
    """Points (K, 2) along the front and the intervals."""
    corners = front[["full", "worst"]].to_numpy(dtype=float)
    ends = frame.dropna(subset=["full_low", "worst_low"])
    starts = [corners[:-1], ends[["full_low", "worst"]].to_numpy(), ends[["full", "worst_low"]].to_numpy()]
    stops = [corners[1:], ends[["full_high", "worst"]].to_numpy(), ends[["full", "worst_high"]].to_numpy()]
    along: Floats = np.linspace(np.vstack(starts), np.vstack(stops), SAMPLES).reshape(-1, 2)
    return along


def _widened(limits: tuple[float, float], mode: Direction) -> tuple[float, float]:
    """A range that is not too narrow for its numbers, the better end last."""
    low, high = min(limits), max(limits)
    widen = max(0.0, NARROWEST - (high - low)) / 2
    return (low - widen, high + widen) if mode is Direction.MAX else (high + widen, low - widen)


def _key_places(entries: Sequence[KeyEntry], width: float) -> list[tuple[int, float]]:
    """Line and x of each entry, in lines of `width`."""
    found, line, x = [], 0, 0.0
    for entry in entries:
        need = SYMBOL + text_width(entry.text) + SPACE
        if x and x + need > width:
            line, x = line + 1, 0.0
        found.append((line, x))
        x += need
    return found


def _draw_key(axes: Axes, entries: Sequence[KeyEntry], places: list[tuple[int, float]], width: float) -> None:
    axes.set_axis_off()
    axes.set_xlim(0, width)
    axes.set_ylim(places[-1][0] + 1, 0)
    for (text, marker, look), (line, x) in zip(entries, places, strict=True):
        if marker is None:
            axes.plot([x + 0.03, x + 0.23], [line + 0.5] * 2, **look)
        else:
            axes.scatter([x + 0.13], [line + 0.5], marker=marker, clip_on=False, **look)
        axes.text(x + SYMBOL, line + 0.5, text, size=LABEL_SIZE, va="center", parse_math=False)
