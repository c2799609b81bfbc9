"""Trials by combinations: a row a trial, a column a combination, and under it the dots of the modalities that are present.

Letters: R rows, C combinations, M modalities.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, Normalize
from matplotlib.figure import Figure

from analysis.results import StudyResults, combination_values, trial_values
from dmr.combinations import SEPARATOR

FORMATS = (".png", ".svg", ".pdf")
COLOURS = "cividis"  # reads the same with any colour vision, and in grey
ROW, DOT_ROW, MARGIN, SUMMARY_CELL, GAP = 0.27, 0.24, 0.15, 0.62, 0.16  # inches
LABEL_SIZE, CELL_SIZE, TITLE_SIZE = 8.0, 7.5, 11.0  # points
TEXT_ROOM = 0.4  # inches a cell needs for its value


@dataclass(frozen=True)
class HeatmapTable:
    """What is drawn.

    Attributes:
        cells: (R, C) values, best row first; the index labels the rows, the columns name the combinations in order.
        summaries: (R, S) further columns, such as mean and worst.
        better: `max` or `min`; the better end of the scale always has the same colour.
    """

    cells: pd.DataFrame
    summaries: pd.DataFrame
    modalities: tuple[str, ...]
    metric: str
    better: str
    title: str
    subtitle: str


def heatmap_table(results: StudyResults, top: int, split: str = "val") -> HeatmapTable:
    """The best `top` trials of a study.

    Raises:
        ValueError: no trial has values.
    """
    order = trial_values(results)
    if order.empty:
        raise ValueError(f"study {results.study}: no trial has values to draw yet")
    best = order.index[:top]
    cells = combination_values(results, split).loc[best]
    objective = results.objectives[0]
    labels = [f"trial {trial}" for trial in best]
    better = "min" if results.main_metric in ("nll", "ece") else "max"
    worst = cells.min(axis=1) if better == "max" else cells.max(axis=1)
    summaries = pd.DataFrame({"mean": cells.mean(axis=1), "worst": worst})
    return HeatmapTable(
        cells=cells.set_axis(labels),
        summaries=summaries.set_axis(labels),
        modalities=results.modalities,
        metric=results.main_metric,
        better=better,
        title=f"{results.study}: {results.main_metric} of every combination of modalities",
        subtitle=f"data {results.dataset}, split {split}, {len(best)} of {len(order)} trials with values, best first by "
        f"{objective['metric']}; {results.combinations} combinations; one seed a trial",
    )


def write_heatmap(results: StudyResults, path: Path, top: int = 24) -> Path:
    """Draw the best `top` trials to a .png, .svg or .pdf file; the file is there whole or not at all.

    Raises:
        ValueError: another ending, or no trial has values.
    """
    if path.suffix.lower() not in FORMATS:
        raise ValueError(f"{path}: a figure ends in {', '.join(FORMATS)}")
    figure = draw_heatmap(heatmap_table(results, top))
    partial = path.with_name(f".{path.stem}.partial{path.suffix}")
    figure.savefig(partial, dpi=160)
    os.replace(partial, path)
    return path


def draw_heatmap(table: HeatmapTable) -> Figure:
    """The figure of a table; its size follows from the number of rows, combinations and modalities."""
    rows, columns = table.cells.shape
    cell = _cell_width(columns)
    figure = Figure()
    FigureCanvasAgg(figure)
    left = MARGIN + max(_text_width(figure, text) for text in [*table.cells.index, *table.modalities]) + 0.1
    width = left + cell * columns + GAP + SUMMARY_CELL * table.summaries.shape[1] + 0.2 + 0.75 + MARGIN
    title = _wrapped(figure, table.subtitle, width - 2 * MARGIN)
    top = 0.62 + 0.15 * title.count("\n")
    height = top + 0.2 + ROW * rows + 0.08 + DOT_ROW * len(table.modalities) + MARGIN
    height = max(height, top + 1.6 + MARGIN)
    figure.set_size_inches(width, height)

    def place(x: float, y_from_top: float, w: float, h: float) -> Axes:
        return figure.add_axes((x / width, 1 - (y_from_top + h) / height, w / width, h / height))

    colours, norm = _scale(table)
    body = top + 0.2
    cells = place(left, body, cell * columns, ROW * rows)
    _draw_cells(cells, table.cells, colours, norm, text=cell >= TEXT_ROOM)
    cells.set_yticks(np.arange(rows) + 0.5, list(table.cells.index), fontsize=LABEL_SIZE)
    _separate_sizes(cells, table.cells.columns)
    dots = place(left, body + ROW * rows + 0.08, cell * columns, DOT_ROW * len(table.modalities))
    draw_dots(dots, list(table.cells.columns), table.modalities)
    side = place(left + cell * columns + GAP, body, SUMMARY_CELL * table.summaries.shape[1], ROW * rows)
    _draw_cells(side, table.summaries, colours, norm, text=True)
    side.set_xticks(np.arange(table.summaries.shape[1]) + 0.5, list(table.summaries.columns), fontsize=LABEL_SIZE)
    side.xaxis.set_ticks_position("top")
    side.tick_params(length=0)
    bar_height = min(max(ROW * rows, 1.2), 3.0)
    bar = place(width - MARGIN - 0.75, body, 0.12, bar_height)
    figure.colorbar(ScalarMappable(norm, colours), cax=bar)
    bar.tick_params(labelsize=LABEL_SIZE - 1)
    bar.set_ylabel(f"{table.metric} ({'higher' if table.better == 'max' else 'lower'} is better)", fontsize=LABEL_SIZE - 1)
    if table.better == "min":
        bar.invert_yaxis()
    figure.text(MARGIN / width, 1 - 0.27 / height, table.title, fontsize=TITLE_SIZE, fontweight="bold")
    figure.text(MARGIN / width, 1 - 0.36 / height, title, fontsize=LABEL_SIZE, color="#444444", va="top")
    return figure


def draw_dots(axes: Axes, combinations: list[str], modalities: tuple[str, ...]) -> Axes:
    """A column a combination, a row a modality: filled where it is present, joined by a line (after Lex et al., UpSet, 2014)."""
    count = len(modalities)
    for row in range(0, count, 2):
        axes.axhspan(row - 0.5, row + 0.5, color="#f0f0f0", lw=0)
    size = 26 if len(combinations) <= 31 else 13
    for x, name in enumerate(combinations):
        present = [modalities.index(part) for part in name.split(SEPARATOR)]
        absent = [row for row in range(count) if row not in present]
        axes.plot([x + 0.5] * 2, [min(present), max(present)], color="#222222", lw=1.2, zorder=2)
        axes.scatter([x + 0.5] * len(absent), absent, s=size * 0.6, color="#c8c8c8", lw=0, zorder=2)
        axes.scatter([x + 0.5] * len(present), present, s=size, color="#222222", lw=0, zorder=3)
    axes.set_xlim(0, len(combinations))
    axes.set_ylim(count - 0.5, -0.5)
    axes.set_yticks(range(count), list(modalities), fontsize=LABEL_SIZE)
    axes.set_xticks([])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return axes


def _draw_cells(axes: Axes, frame: pd.DataFrame, colours: Colormap, norm: Normalize, text: bool) -> None:
    values = frame.to_numpy(dtype=float)
    rows, columns = values.shape
    axes.pcolormesh(np.ma.masked_invalid(values), cmap=colours, norm=norm, edgecolors="white", linewidth=0.4)
    axes.set_ylim(rows, 0)
    axes.set_xlim(0, columns)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    if not text:
        return
    for (row, column), value in np.ndenumerate(values):
        if np.isfinite(value):
            red, green, blue, _ = colours(norm(value))
            dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.5
            axes.text(
                column + 0.5, row + 0.53, _number(value), fontsize=CELL_SIZE, color="white" if dark else "black", ha="center", va="center"
            )


def _separate_sizes(axes: Axes, combinations: pd.Index[str]) -> None:
    """A line between combinations of different size, and above them how many modalities they have."""
    sizes = np.array([name.count(SEPARATOR) + 1 for name in combinations])
    for x in np.flatnonzero(np.diff(sizes)) + 1:
        axes.axvline(x, color="white", lw=3)
    for size in np.unique(sizes):
        where = np.flatnonzero(sizes == size)
        axes.text(where.mean() + 0.5, -0.2, str(size), fontsize=LABEL_SIZE, ha="center", va="bottom", color="#444444")
    axes.text(-0.1, -0.2, "modalities present:", fontsize=LABEL_SIZE, ha="right", va="bottom", color="#444444")


def _scale(table: HeatmapTable) -> tuple[Colormap, Normalize]:
    from matplotlib import colormaps

    values = table.cells.to_numpy(dtype=float)
    low, high = np.nanmin(values), np.nanmax(values)
    if high - low < 1e-9:
        low, high = low - 0.01, high + 0.01
    return colormaps[COLOURS if table.better == "max" else f"{COLOURS}_r"], Normalize(low, high)


def _cell_width(columns: int) -> float:
    """Inches a column: wide enough for its value up to 31 columns, narrower beyond."""
    return 0.62 if columns <= 7 else 0.46 if columns <= 15 else TEXT_ROOM if columns <= 31 else 0.19


def _number(value: float) -> str:
    return f"{value:.2f}" if abs(value) < 10 else f"{value:.0f}"


def _text_width(figure: Figure, text: str) -> float:
    """Inches a label takes."""
    drawn = figure.text(0, 0, text, fontsize=LABEL_SIZE)
    extent = drawn.get_window_extent(figure.canvas.get_renderer())  # type: ignore[attr-defined]
    drawn.remove()
    return float(extent.width) / figure.dpi


def _wrapped(figure: Figure, text: str, width: float) -> str:
    """`text` in as many lines as `width` inches need."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if _text_width(figure, longer) > width and lines[-1]:
            lines.append(word)
        else:
            lines[-1] = longer
    return "\n".join(lines)
