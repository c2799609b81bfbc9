"""Heatmaps: rows are trials, methods, parameters or classes, one column per combination, and under it the dots of the
modalities it has.

Letters: R rows, C combinations, M modalities, S summaries. Lengths are inches, sizes of letters and dots points.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize, to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from dmr.analysis.figures import style
from dmr.analysis.figures.style import (
    DOT_ROW,
    GAP,
    GREY,
    HEADER,
    LABEL_LINE,
    LABEL_SIZE,
    MARGIN,
    PAD,
    SMALL_SIZE,
    text_width,
)
from dmr.combinations import all_combinations
from dmr.direction import Direction

COLOURS = "viridis"  # lightness grows evenly: reads with any colour vision, and in grey
DIVERGING, UNSIGNED = "RdBu", "Greens"  # blue better, red worse: told apart with any colour vision
ROW, SUMMARY, BAR, BARS = 0.27, 0.62, 0.11, 1.1
NARROWEST = 0.02  # of the colour scale, in the unit of the metric
MUTED, MUTED_SHARE = np.array(to_rgb("#e2e2e2")), 0.8
LUMINANCE = np.array([0.2126, 0.7152, 0.0722])  # of linear red, green and blue
SIZES = "modalities present:"


@dataclass(frozen=True)
class HeatmapTable:
    """What is drawn.

    Attributes:
        cells: (R, C) values, best row first; the index labels the rows, the columns name the combinations in order.
        summaries: (R, S) further columns, such as mean and worst.
        better: the better end of the scale, which always has the same colour.
        difference: values are differences, the scale has 0 in its middle.
        muted: (R, C) True where a difference cannot be told from 0: nearly grey; and (R, S) `muted_summaries`.
        unsigned: (R,) rows whose values have no sign, in colours of their own from 0 to 1.
        bars: (R,) shares drawn as bars instead of the summaries, with their name.
    """

    cells: pd.DataFrame
    summaries: pd.DataFrame
    modalities: tuple[str, ...]
    metric: str
    better: Direction
    title: str
    subtitle: str
    difference: bool = False
    muted: npt.NDArray[np.bool_] | None = None
    muted_summaries: npt.NDArray[np.bool_] | None = None
    unsigned: npt.NDArray[np.bool_] | None = None
    bars: pd.Series | None = None


class Column(NamedTuple):
    """How wide a combination's cells are, how their values are written, if at all, and in which size."""

    width: float
    number: Callable[[float], str] | None
    size: float


def draw_heatmap(table: HeatmapTable) -> Figure:
    """The figure of a table; its size follows from the number of rows, combinations and modalities. Differences below 1
    are written in hundredths.
    """
    hundredths = table.difference and table.bars is None and not (table.cells.abs() >= 1).any(axis=None)
    if hundredths:
        table = replace(table, cells=100 * table.cells, summaries=100 * table.summaries, metric=f"100 × {table.metric}")
    labels = [style.worded(str(text)) for text in table.cells.index]
    modalities = tuple(map(style.worded, table.modalities))
    (rows, columns), count = table.cells.shape, len(modalities)
    column = _column(columns, None if not table.difference else 1 if hundredths else 2)
    metric = style.worded(table.metric)
    label = metric if table.bars is not None else f"{metric} ({style.better_end(table.better)})"
    left = MARGIN + PAD + max(text_width(text) for text in [*labels, *modalities, SIZES])
    panel = BARS if table.bars is not None else SUMMARY * table.summaries.shape[1]
    side = max(panel, text_width(label, SMALL_SIZE))
    right = left + column.width * columns + GAP
    under = ROW * rows + PAD
    dots_height = max(DOT_ROW * count, BAR + 2 * LABEL_LINE + PAD)
    sheet = style.Sheet(right + side + MARGIN, HEADER + under + dots_height + MARGIN, table.title, table.subtitle)
    body = sheet.top + HEADER
    scale = _scale(table, 100.0 if hundredths else 1.0)
    combinations = all_combinations(table.modalities)
    masks = pd.DataFrame(combinations.masks, index=combinations.names).loc[table.cells.columns].to_numpy()

    cells = sheet.add_axes(left, body, column.width * columns, ROW * rows)
    draw_cells(cells, table.cells, scale, column.number, column.size, table.muted, table.unsigned)
    cells.set_yticks(np.arange(rows) + 0.5, labels, size=LABEL_SIZE)
    dots = sheet.add_axes(left, body + under, column.width * columns, DOT_ROW * count)
    style.draw_dots(dots, masks, modalities, min(5.2, 25 * column.width))
    separate_sizes(cells, dots, masks.sum(axis=1))

    if table.bars is not None:
        _draw_bars(sheet.add_axes(right, body, panel, ROW * rows), table.bars)
    elif table.summaries.shape[1]:
        beside = sheet.add_axes(right, body, panel, ROW * rows)
        form = partial(style.signed_number, decimals=2) if table.difference else "{:.3f}".format
        draw_cells(beside, table.summaries, scale, form, SMALL_SIZE, table.muted_summaries)
        for x, name in enumerate(table.summaries):
            header(beside, x + 0.5, str(name))
    draw_bar(sheet, right, body + under, side, scale, label, table.better is Direction.MIN)
    return sheet.figure


def draw_bar(
    sheet: style.Sheet, x: float, y: float, width: float, scale: ScalarMappable, label: str, flip: bool
) -> None:
    """The colour bar, its better end on the right."""
    axes = sheet.add_axes(x, y, width, BAR)
    bar = sheet.figure.colorbar(scale, cax=axes, orientation="horizontal", ticks=MaxNLocator(3))
    bar.set_label(label, size=SMALL_SIZE)
    bar.ax.tick_params(labelsize=SMALL_SIZE)
    bar.outline.set_visible(False)  # type: ignore[operator]
    if flip:
        bar.ax.invert_xaxis()


def draw_cells(
    axes: Axes,
    frame: pd.DataFrame,
    scale: ScalarMappable,
    number: Callable[[float], str] | None,
    size: float,
    muted: npt.NDArray[np.bool_] | None = None,
    unsigned: npt.NDArray[np.bool_] | None = None,
    written: pd.DataFrame | None = None,
) -> Axes:
    """A frame (R, C) as coloured cells, grey where there is no value; with `number`, the values in them, or those
    `written` (R, C).
    """
    values = frame.to_numpy(dtype=float)
    rows, columns = values.shape
    colours = scale.to_rgba(np.ma.masked_invalid(values))  # (R, C, 4)
    if unsigned is not None:
        colours[unsigned] = colormaps[UNSIGNED](np.ma.masked_invalid(0.8 * values[unsigned]))
        colours[~np.isfinite(values)] = 0.0
    if muted is not None:
        pale = muted & np.isfinite(values)
        colours[pale, :3] = MUTED_SHARE * MUTED + (1 - MUTED_SHARE) * colours[pale, :3]
    dark = colours[..., :3] ** 2.2 @ LUMINANCE < 0.2
    axes.set_facecolor("#e8e8e8")
    axes.pcolormesh(colours, edgecolors="white", linewidth=0.4 if number is not None or rows <= 24 else 0.0)
    axes.set_xlim(0, columns)
    axes.set_ylim(rows, 0)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    texts = values if written is None else written.to_numpy(dtype=float)
    if number is not None:
        for row, column in np.argwhere(np.isfinite(values)):
            pale_cell = muted is not None and muted[row, column]
            ink = "#777777" if pale_cell else "white" if dark[row, column] else "black"
            no_sign = unsigned is not None and unsigned[row]
            text = number(texts[row, column])
            text = text.removeprefix("+") if no_sign else text
            axes.text(column + 0.5, row + 0.53, text, size=size, color=ink, ha="center", va="center")
    return axes


def separate_sizes(cells: Axes, dots: Axes, sizes: npt.NDArray[np.int64]) -> None:
    """White lines between combinations of different size, and above them how many modalities they have: sizes (C,)."""
    for x in (np.flatnonzero(np.diff(sizes)) + 1).tolist():
        cells.axvline(x, color="white", lw=2)
        dots.axvline(x, color="white", lw=2, zorder=1)
    for size in np.unique(sizes):
        header(cells, float(np.flatnonzero(sizes == size).mean()) + 0.5, str(size))
    cells.annotate(SIZES, (0, 1), (-4, 4), "axes fraction", "offset points", size=LABEL_SIZE, color=GREY, ha="right")


def header(axes: Axes, x: float, text: str) -> None:
    axes.annotate(text, (x, 0), (0, 4), "data", "offset points", size=LABEL_SIZE, color=GREY, ha="center")


def scale_of(values: npt.NDArray[np.float64], better: Direction) -> ScalarMappable:
    """From the lowest to the highest value, but never so narrow that noise fills it."""
    low, high = np.nanmin(values), np.nanmax(values)
    widen = max(0.0, NARROWEST - (high - low)) / 2
    return ScalarMappable(
        Normalize(low - widen, high + widen), colormaps[COLOURS if better is Direction.MAX else f"{COLOURS}_r"]
    )


def _scale(table: HeatmapTable, unit: float) -> ScalarMappable:
    """Of values that of `scale_of`; of differences, in which 1 of the metric is `unit`, as far below 0 as above."""
    values = table.cells.to_numpy(dtype=float)
    if not table.difference:  # of samples that have all modalities, a summary may lie beyond all cells
        return scale_of(np.hstack([values, table.summaries.to_numpy(dtype=float)]), table.better)
    widest = float(np.nanmax(np.abs(values), initial=0.0))
    limit = 1.0 if table.bars is not None else max(unit * NARROWEST / 2, widest)
    return ScalarMappable(
        Normalize(-limit, limit), colormaps[DIVERGING if table.better is Direction.MAX else f"{DIVERGING}_r"]
    )


def _draw_bars(axes: Axes, bars: pd.Series) -> Axes:
    """Shares (R,) as bars, with their numbers."""
    values = bars.to_numpy(dtype=float)
    longest = max(float(np.nanmax(values, initial=0.0)), 0.01)
    axes.barh(np.arange(len(values)) + 0.5, np.nan_to_num(values), height=0.6, color="#7f7f7f")
    for row, value in enumerate(values):
        text = style.number(value) if np.isfinite(value) else "–"
        axes.annotate(
            text, (np.nan_to_num(value), row + 0.53), (2, 0), "data", "offset points", size=SMALL_SIZE, va="center"
        )
    axes.set_xlim(0, 1.5 * longest)
    axes.set_ylim(len(values), 0)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    axes.annotate(
        str(bars.name), (0, 0), (0, 4), "data", "offset points", size=LABEL_SIZE, color=GREY, annotation_clip=False
    )
    return axes


def _column(columns: int, decimals: int | None) -> Column:
    """Full values up to 5 modalities, short ones for 6, none beyond, where 12 inches have to do; `decimals` of signed
    ones, None for others.
    """
    if columns > 63:
        return Column(12 / columns, None, 0)
    short = columns > (31 if decimals is None else 15)
    number: Callable[[float], str] = style.short_number if short else style.number
    if decimals is not None:
        number = partial(style.short_signed_number if short else style.signed_number, decimals=decimals)
    if columns > 31:
        return Column(0.185 if decimals is None else 0.22, number, SMALL_SIZE - (1.0 if decimals is None else 1.4))
    width = 0.6 if columns <= 3 else 0.5 if columns <= 7 else 0.4 if columns <= 15 else 0.3
    return Column(width, number, SMALL_SIZE)
