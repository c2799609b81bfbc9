"""Predicted variance and loss of each combination by epoch, and when it was in the hard set: a run's `diagnostics.csv`.

Letters: E epochs, C combinations.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from dmr.analysis.figures import style
from dmr.analysis.figures.combination_heatmap import BAR, SIZES, draw_bar, draw_cells, scale_of, separate_sizes
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

COLUMNS = ["epoch", "combination", "loss", "variance", "hard"]
HARD, LINE = style.PALETTE[1], "#9a9a9a"
CURVE, CURVE_WIDTH, AXIS = 1.35, 1.35, 0.3
EPOCHS_HEIGHT = 2.4


@dataclass(frozen=True)
class Diagnostics:
    """By epoch and combination (E, C): mean training loss, predicted variance, and whether it was hard."""

    loss: pd.DataFrame
    variance: pd.DataFrame
    hard: pd.DataFrame
    modalities: tuple[str, ...]


def read_diagnostics(content: bytes, modalities: tuple[str, ...]) -> Diagnostics | None:
    """A run's `diagnostics.csv`; None where it is not that, or has no variance that moves."""
    try:
        # a modality may be called NA, which pandas would take for no text at all
        numbers = {key: ["", "nan"] for key in COLUMNS[2:]}
        frame = pd.read_csv(io.BytesIO(content), keep_default_na=False, na_values=numbers)
    except (ValueError, UnicodeDecodeError):
        return None
    if list(frame.columns) != COLUMNS or frame.empty:
        return None
    names = [name for name in all_combinations(modalities).names if (frame["combination"] == name).any()]
    by = {c: frame.pivot(index="epoch", columns="combination", values=c)[names].astype(float) for c in COLUMNS[2:]}
    if not by["variance"].notna().any(axis=None):
        return None
    return Diagnostics(by["loss"], by["variance"], by["hard"].fillna(0) > 0, modalities)


def draw_variance(found: Diagnostics, title: str, subtitle: str) -> Figure:
    """Above, curves by size: variance, and loss below it; under them the variance by epoch and combination. Whatever
    is in the hard set is marked.
    """
    combinations = all_combinations(found.modalities)
    masks = pd.DataFrame(combinations.masks, index=combinations.names).loc[found.variance.columns].to_numpy()
    sizes, count = masks.sum(axis=1), len(found.modalities)
    panels = np.unique(sizes)
    columns = len(sizes)
    column = {2: 0.6, 3: 0.45, 4: 0.35, 5: 0.25}.get(count, 0.16) if columns <= 63 else 10 / columns
    modalities = tuple(map(style.worded, found.modalities))
    left = MARGIN + PAD + max(text_width(text) for text in [*modalities, SIZES])
    curves = max(column * columns, CURVE_WIDTH * len(panels))
    width = left + max(curves, column * columns + GAP + 1.6) + MARGIN
    height = 2 * (CURVE + AXIS) + 0.15 + HEADER + EPOCHS_HEIGHT + PAD + max(DOT_ROW * count, BAR + 2 * LABEL_LINE)
    sheet = style.Sheet(width, HEADER + height + MARGIN, title, subtitle)
    top = sheet.top + HEADER
    for row, (frame, name) in enumerate(((found.variance, "predicted variance"), (found.loss, "training loss"))):
        step, limits = curves / len(panels), _limits(frame)
        for at, size in enumerate(panels):
            axes = sheet.add_axes(left + at * step, top + row * (CURVE + AXIS), step - 0.12, CURVE)
            chosen = sizes == size
            _draw_curves(axes, frame.loc[:, chosen], found.hard.loc[:, chosen], limits)
            axes.set_xlabel("epoch" if row else "", size=SMALL_SIZE)
            if at:
                axes.tick_params(labelleft=False)
            else:
                axes.annotate(
                    name,
                    (0, 0.5),
                    (-36, 0),
                    "axes fraction",
                    "offset points",
                    size=LABEL_SIZE,
                    rotation=90,
                    ha="center",
                    va="center",
                )
            if not row:
                axes.set_title(f"{size} of {count} present", size=LABEL_SIZE, color=GREY, pad=3)
    body = top + 2 * (CURVE + AXIS) + 0.05 + HEADER
    cells = sheet.add_axes(left, body, column * columns, EPOCHS_HEIGHT)
    scale = scale_of(found.variance.to_numpy(), Direction.MAX)
    scale.set_cmap(colormaps["Greys"])
    _draw_epochs(cells, found, scale)
    dots = sheet.add_axes(left, body + EPOCHS_HEIGHT + PAD, column * columns, DOT_ROW * count)
    style.draw_dots(dots, masks, modalities, min(5.2, 25 * column))
    separate_sizes(cells, dots, sizes)
    right = left + column * columns + GAP
    _draw_key(sheet, right, body, bool(found.hard.to_numpy().any()))
    draw_bar(sheet, right, body + EPOCHS_HEIGHT - BAR - 2 * LABEL_LINE, 1.3, scale, "predicted variance", False)
    return sheet.figure


def _draw_curves(axes: Axes, frame: pd.DataFrame, hard: pd.DataFrame, limits: tuple[float, float]) -> None:
    style.plain(axes)
    epochs = frame.index.to_numpy()
    for name in frame:
        values = frame[name].to_numpy()
        axes.plot(epochs, values, color=LINE, lw=0.8, zorder=2)
        marked = np.where(hard[name], values, np.nan)
        axes.plot(epochs, marked, color=HARD, lw=1.4, marker="o", ms=2.2, mew=0, zorder=3)
    axes.set_ylim(limits)
    axes.set_xlim(epochs.min() - 0.5, epochs.max() + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(3, integer=True, prune="upper"))
    axes.yaxis.set_major_locator(MaxNLocator(4))


def _draw_epochs(axes: Axes, found: Diagnostics, scale: ScalarMappable) -> None:
    """The first epoch at the top; a dot where the combination was in the hard set."""
    draw_cells(axes, found.variance, scale, None, 0)
    rows, columns = np.nonzero(found.hard.to_numpy())
    epochs = len(found.variance)
    size = min(3.0, 0.5 * 72 * EPOCHS_HEIGHT / epochs)
    axes.scatter(columns + 0.5, rows + 0.5, s=size**2, color=HARD, lw=0, zorder=3)
    ticks = [tick for tick in MaxNLocator(6, integer=True).tick_values(0, epochs - 1) if 0 <= tick < epochs]
    axes.set_yticks(
        [tick + 0.5 for tick in ticks], [f"epoch {found.variance.index[int(tick)]}" for tick in ticks], size=SMALL_SIZE
    )


def _draw_key(sheet: style.Sheet, x: float, y: float, hard: bool) -> None:
    axes = sheet.add_axes(x, y, 1.6, 0.4)
    axes.set_axis_off()
    axes.set_xlim(0, 1.6)
    axes.set_ylim(2, 0)
    axes.scatter([0.08], [0.5], s=9, color=HARD, lw=0)
    text = "in the hard set" if hard else "hard set: never any"
    axes.text(0.2, 0.5, text, size=LABEL_SIZE, va="center")


def _limits(frame: pd.DataFrame) -> tuple[float, float]:
    values: npt.NDArray[np.float64] = frame.to_numpy()
    if not np.isfinite(values).any():
        return 0.0, 1.0
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    pad = max(0.06 * (high - low), 0.005)
    return low - pad, high + pad
