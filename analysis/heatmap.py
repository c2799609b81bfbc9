"""Trials by combinations: a row a trial, a column a combination, and under it the dots of the modalities it has.

Letters: R rows, C combinations, M modalities, S summaries. Lengths are inches, sizes of letters and dots points.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path
from matplotlib.ticker import MaxNLocator

from analysis.results import StudyResults, combination_values, trial_values
from dmr.combinations import all_combinations

FORMATS = (".png", ".svg", ".pdf")
COLOURS = "viridis"  # lightness grows evenly: reads with any colour vision, and in grey
TITLE_SIZE, LABEL_SIZE, SMALL_SIZE = 11.0, 8.0, 7.0
TITLE_LINE, LABEL_LINE, HEADER = 0.21, 0.15, 0.32
ROW, DOT_ROW, SUMMARY, BAR = 0.27, 0.24, 0.62, 0.11
MARGIN, GAP, PAD = 0.15, 0.16, 0.1
NARROWEST = 0.02  # of the colour scale, in the unit of the metric
LUMINANCE = np.array([0.2126, 0.7152, 0.0722])  # of linear red, green and blue
SIZES, GREY = "modalities present:", "#444444"


@dataclass(frozen=True)
class HeatmapTable:
    """What is drawn.

    Attributes:
        cells: (R, C) values, best row first; the index labels the rows, the columns name the combinations in order.
        summaries: (R, S) further columns, such as mean and worst.
        better: the better end of the scale, which always has the same colour.
    """

    cells: pd.DataFrame
    summaries: pd.DataFrame
    modalities: tuple[str, ...]
    metric: str
    better: Literal["max", "min"]
    title: str
    subtitle: str


class Column(NamedTuple):
    """How wide a combination's cells are, how their values are written, if at all, and in which size."""

    width: float
    number: Callable[[float], str] | None
    size: float


def heatmap_table(results: StudyResults, top: int, split: str = "val") -> HeatmapTable:
    """The best `top` trials of a study.

    Raises:
        ValueError: no trial has values.
    """
    values = combination_values(results, split)
    order = trial_values(results).index.intersection(values.index, sort=False)
    if order.empty:
        raise ValueError(f"study {results.study}: no trial has values to draw yet")
    methods = results.table.groupby("trial")["method"].first()
    several = methods.nunique() > 1
    cells = values.loc[order[:top]].rename(
        index=lambda trial: f"trial {trial}, {methods[trial]}" if several else f"trial {trial}"
    )
    worst = cells.min(axis=1) if results.main_mode == "max" else cells.max(axis=1)
    return HeatmapTable(
        cells=cells,
        summaries=pd.DataFrame({"mean": cells.mean(axis=1), "worst": worst}),
        modalities=results.modalities,
        metric=results.main_metric,
        better=results.main_mode,
        title=f"{results.study}: {results.main_metric} by combination of modalities",
        subtitle=f"data {results.dataset}, split {split}; {len(cells)} of {len(order)} trials with values, best first "
        f"by {results.objectives[0]['metric']}; {results.combinations} combinations; one seed a trial",
    )


def write_heatmap(results: StudyResults, path: Path, top: int = 24) -> Path:
    """Draw the best `top` trials to a .png, .svg or .pdf file; the file is there whole or not at all.

    Raises:
        ValueError: another ending, no such directory, or no trial has values.
    """
    if path.suffix.lower() not in FORMATS:
        raise ValueError(f"{path}: a figure ends in {', '.join(FORMATS)}")
    if not path.parent.is_dir():
        raise ValueError(f"{path}: there is no directory {path.parent}")
    figure = draw_heatmap(heatmap_table(results, top))
    partial = path.with_name(f".{path.stem}.partial{path.suffix}")
    try:
        figure.savefig(partial, dpi=160)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def draw_heatmap(table: HeatmapTable) -> Figure:
    """The figure of a table; its size follows from the number of rows, combinations and modalities."""
    (rows, columns), count = table.cells.shape, len(table.modalities)
    column = _column(columns)
    better = f"{table.metric} ({'higher' if table.better == 'max' else 'lower'} is better)"
    left = MARGIN + PAD + max(_width(label) for label in [*table.cells.index, *table.modalities, SIZES])
    side = max(SUMMARY * table.summaries.shape[1], _width(better, SMALL_SIZE))
    right = left + column.width * columns + GAP
    width = right + side + MARGIN
    title = _wrapped(table.title, width - 2 * MARGIN, TITLE_SIZE, "bold")
    subtitle = _wrapped(table.subtitle, width - 2 * MARGIN)
    under_title = MARGIN + TITLE_LINE * len(title)
    body = under_title + LABEL_LINE * len(subtitle) + HEADER
    under = body + ROW * rows + PAD
    height = under + max(DOT_ROW * count, BAR + 2 * LABEL_LINE + PAD) + MARGIN
    figure = Figure((width, height))

    def place(x: float, y: float, w: float, h: float) -> Axes:
        """Axes of w by h inches, x from the left, y from the top."""
        return figure.add_axes((x / width, 1 - (y + h) / height, w / width, h / height))

    def write(y: float, lines: list[str], size: float, weight: str, colour: str) -> None:
        text = "\n".join(lines)
        figure.text(
            MARGIN / width, 1 - y / height, text, size=size, weight=weight, color=colour, va="top", parse_math=False
        )

    write(MARGIN, title, TITLE_SIZE, "bold", "black")
    write(under_title, subtitle, LABEL_SIZE, "normal", GREY)
    scale = _scale(table)
    combinations = all_combinations(table.modalities)
    masks = pd.DataFrame(combinations.masks, index=combinations.names).loc[table.cells.columns].to_numpy()

    cells = place(left, body, column.width * columns, ROW * rows)
    _draw_cells(cells, table.cells, scale, column.number, column.size)
    cells.set_yticks(np.arange(rows) + 0.5, table.cells.index, size=LABEL_SIZE)
    dots = place(left, under, column.width * columns, DOT_ROW * count)
    draw_dots(dots, masks, table.modalities, min(5.2, 25 * column.width))
    _separate_sizes(cells, dots, masks.sum(axis=1))

    summaries = place(right, body, side, ROW * rows)
    _draw_cells(summaries, table.summaries, scale, "{:.3f}".format, SMALL_SIZE)
    for x, name in enumerate(table.summaries):
        _header(summaries, x + 0.5, str(name))
    bar = figure.colorbar(scale, cax=place(right, under, side, BAR), orientation="horizontal", ticks=MaxNLocator(3))
    bar.set_label(better, size=SMALL_SIZE)
    bar.ax.tick_params(labelsize=SMALL_SIZE)
    bar.outline.set_visible(False)
    if table.better == "min":
        bar.ax.invert_xaxis()
    return figure


def draw_dots(axes: Axes, masks: npt.NDArray[np.bool_], modalities: tuple[str, ...], size: float = 5.2) -> Axes:
    """Masks (C, M): a column a combination, a dot where present, a line that joins them (Lex et al., UpSet, 2014)."""
    columns, count = masks.shape
    first, last = masks.argmax(axis=1), count - 1 - masks[:, ::-1].argmax(axis=1)
    for row in range(0, count, 2):
        axes.axhspan(row - 0.5, row + 0.5, color="#f0f0f0", lw=0)
    absent_x, absent_y = np.nonzero(~masks)
    present_x, present_y = np.nonzero(masks)
    axes.scatter(absent_x + 0.5, absent_y, s=0.6 * size**2, color="#c8c8c8", lw=0, zorder=2)
    axes.vlines(np.arange(columns) + 0.5, first, last, color="#222222", lw=0.24 * size, zorder=3)
    axes.scatter(present_x + 0.5, present_y, s=size**2, color="#222222", lw=0, zorder=4)
    axes.set_xlim(0, columns)
    axes.set_ylim(count - 0.5, -0.5)
    axes.set_xticks([])
    axes.set_yticks(range(count), modalities, size=LABEL_SIZE)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return axes


def _draw_cells(
    axes: Axes, frame: pd.DataFrame, scale: ScalarMappable, number: Callable[[float], str] | None, size: float
) -> Axes:
    """A frame (R, C) as coloured cells, grey where there is no value; with `number`, the values in them."""
    values = frame.to_numpy(dtype=float)
    rows, columns = values.shape
    colours = scale.to_rgba(np.ma.masked_invalid(values))  # (R, C, 4)
    dark = colours[..., :3] ** 2.2 @ LUMINANCE < 0.2
    axes.set_facecolor("#e8e8e8")
    axes.pcolormesh(colours, edgecolors="white", linewidth=0.4)
    axes.set_xlim(0, columns)
    axes.set_ylim(rows, 0)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    if number is not None:
        for row, column in np.argwhere(np.isfinite(values)):
            ink = "white" if dark[row, column] else "black"
            text = number(values[row, column])
            axes.text(column + 0.5, row + 0.53, text, size=size, color=ink, ha="center", va="center")
    return axes


def _separate_sizes(cells: Axes, dots: Axes, sizes: npt.NDArray[np.int64]) -> None:
    """White lines between combinations of different size, and above them how many modalities they have: sizes (C,)."""
    for x in (np.flatnonzero(np.diff(sizes)) + 1).tolist():
        cells.axvline(x, color="white", lw=2)
        dots.axvline(x, color="white", lw=2, zorder=1)
    for size in np.unique(sizes):
        _header(cells, float(np.flatnonzero(sizes == size).mean()) + 0.5, str(size))
    cells.annotate(SIZES, (0, 1), (-4, 4), "axes fraction", "offset points", size=LABEL_SIZE, color=GREY, ha="right")


def _header(axes: Axes, x: float, text: str) -> None:
    axes.annotate(text, (x, 0), (0, 4), "data", "offset points", size=LABEL_SIZE, color=GREY, ha="center")


def _scale(table: HeatmapTable) -> ScalarMappable:
    """From the lowest to the highest value, but never so narrow that noise fills it."""
    values = table.cells.to_numpy(dtype=float)
    low, high = np.nanmin(values), np.nanmax(values)
    widen = max(0.0, NARROWEST - (high - low)) / 2
    return ScalarMappable(
        Normalize(low - widen, high + widen), colormaps[COLOURS if table.better == "max" else f"{COLOURS}_r"]
    )


def _column(columns: int) -> Column:
    """Full values up to 5 modalities, short ones for 6, none beyond, where 12 inches have to do."""
    if columns <= 31:
        return Column(
            0.6 if columns <= 3 else 0.5 if columns <= 7 else 0.4 if columns <= 15 else 0.3, _number, SMALL_SIZE
        )
    if columns <= 63:
        return Column(0.185, _short_number, SMALL_SIZE - 1)
    return Column(12 / columns, None, 0)


def _number(value: float) -> str:
    return f"{value:.2f}" if abs(value) < 10 else f"{value:.0f}"


def _short_number(value: float) -> str:
    """At most two digits: .85, 1.0, 12."""
    text = f"{value:.2f}"
    return text.removeprefix("0") if text.startswith("0") else f"{value:.1f}" if value < 9.95 else f"{value:.0f}"


def _width(text: str, size: float = LABEL_SIZE, weight: str = "normal") -> float:
    font = FontProperties(size=size, weight=weight)
    return float(text_to_path.get_text_width_height_descent(text, font, ismath=False)[0]) / 72


def _wrapped(text: str, width: float, size: float = LABEL_SIZE, weight: str = "normal") -> list[str]:
    """`text` in lines that fit; only a word wider than a line is broken."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if _width(longer, size, weight) <= width:
            lines[-1] = longer
            continue
        lines.append("")
        for letter in word:
            if _width(lines[-1] + letter, size, weight) > width:
                lines.append("")
            lines[-1] += letter
    return [line for line in lines if line]
