"""Tuning curves: the expected best of n trials, a line per block or method.

Letters: K lines. Lengths are inches.
"""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from dmr.analysis.comparison.tuning import TuningCurves
from dmr.analysis.figures import style
from dmr.analysis.figures.style import LABEL_LINE, LABEL_SIZE, MARGIN, PALETTE, text_width
from dmr.analysis.statistics import Floats
from dmr.direction import Direction

WIDTH, HEIGHT, LEFT, BELOW, LEAD = 4.2, 3.0, 0.6, 0.45, 0.45
BANDS = 6  # lines, beyond which bands would hide each other
DASHES = ("-", "--", ":", "-.")
TICKS = [step * 10**power for power in range(7) for step in (1, 2, 3, 5)]
NARROWEST = 0.01  # of a scale, where all values are one


def draw_tuning(curves: TuningCurves, dataset: str) -> Figure:
    """The lines, their names at their ends, and bands where there are few."""
    studies = curves.frame["study"].unique().tolist()
    several = len(studies) > 1
    lines = {
        style.worded(f"{study}: {method}" if several else str(method)): rows
        for (study, method), rows in curves.frame.groupby(["study", "method"], sort=False)
    }
    bands = len(lines) <= BANDS and bool(curves.frame["low"].notna().any())
    height = max(HEIGHT, LABEL_LINE * len(lines))
    names = max(map(text_width, lines))
    width = 2 * MARGIN + LEFT + WIDTH + LEAD + names
    facts = f"data {dataset}, split {curves.split}; {curves.covered}"
    title = f"{', '.join(studies)}: {curves.metric} expected of the best of n trials"
    sheet = style.Sheet(width, 0.15 + height + BELOW + MARGIN, title, f"{facts}; {_words(curves, bands)}")
    axes = sheet.add_axes(MARGIN + LEFT, sheet.top + 0.15, WIDTH, height)
    where = f"expected {curves.metric} on {curves.split} ({style.better_end(curves.mode)})"
    style.plain(axes, "trials, of which the best on val is chosen", where)
    ends = []
    for number, rows in enumerate(lines.values()):
        colour, dash = PALETTE[number % len(PALETTE)], DASHES[number // len(PALETTE) % len(DASHES)]
        (line,) = axes.plot(rows["trials"], rows["expected"], color=colour, ls=dash, lw=1.4, zorder=3)
        line.set_marker("o" if len(rows) == 1 else "")
        if bands:
            axes.fill_between(rows["trials"], rows["low"], rows["high"], color=colour, alpha=0.14, lw=0, zorder=2)
        ends.append((float(rows["trials"].iloc[-1]), float(rows["expected"].iloc[-1])))
    most = int(curves.frame["of"].max())
    axes.set_xscale("log")
    axes.set_xlim(0.95, 1.05 * most)
    axes.set_xticks([tick for tick in TICKS if tick <= most], minor=False)
    axes.xaxis.set_major_formatter("{x:.0f}")
    axes.xaxis.set_minor_locator(NullLocator())
    low, high = axes.get_ylim()
    widen = max(0.0, NARROWEST - (high - low)) / 2
    axes.set_ylim((low - widen, high + widen) if curves.mode is Direction.MAX else (high + widen, low - widen))
    _name_ends(axes, np.array(ends), list(lines), height)
    return sheet.figure


def _words(curves: TuningCurves, bands: bool) -> str:
    frame = curves.frame
    seeds = sorted(frame["seeds"].unique().tolist())
    words = (
        f"mean over all choices of n trials of what their best by {curves.chosen_by} has, in whatever order they came"
    )
    words += ": a sampler that learns (tpe, gp, cmaes, nsga2) has an order of its own"
    if curves.split == "test":
        words += f"; on test a trial is the mean of its confirmed runs, {style.seeds_text(seeds)}"
        words += "; band: 95 % t interval over them, of these trials" if bands else ""
    else:
        words += "; one seed per trial"
        words += "; band: the middle 80 % of these choices" if bands else ""
    return "; ".join((words, *curves.notes))


def _name_ends(axes: Axes, ends: Floats, names: list[str], height: float) -> None:
    """Names to the right of ends (K, 2), in the order of their heights and a line apart, each joined to its end."""
    points = axes.transLimits.transform(axes.transScale.transform(ends))  # (K, 2), 0 to 1
    order, step = np.argsort(-points[:, 1], kind="stable"), LABEL_LINE / height
    places = _spread(points[order, 1], step)
    for place, number in zip(places, order.tolist(), strict=True):
        line = axes.lines[number]
        (x, y), right = points[number], 1 + LEAD / WIDTH
        lead = ([x, 1, right - 0.02], [y, y, place])
        look = {"color": line.get_color(), "ls": line.get_linestyle(), "lw": 0.6}
        axes.plot(*lead, transform=axes.transAxes, clip_on=False, zorder=1, **look)
        axes.text(
            right,
            place,
            names[number],
            transform=axes.transAxes,
            size=LABEL_SIZE,
            color=line.get_color(),
            va="center",
            parse_math=False,
        )


def _spread(wanted: Floats, step: float) -> Floats:
    """Heights (K,), the highest first, moved so that no two are closer than `step` and all are from 0 to 1."""
    steps = step * np.arange(len(wanted))
    down = np.minimum.accumulate(np.minimum(wanted, 1 - step / 2) + steps) - steps
    lowest = step / 2 + steps[::-1]
    spread: Floats = np.maximum(down, lowest)
    return spread
