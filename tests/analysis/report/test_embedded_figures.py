"""Pictures of the report: smaller than the figure, in its colours."""

from __future__ import annotations

import io

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from dmr.analysis.report.embedded_figures import PIXELS_PER_INCH, SHARPNESS, _drawn


def test_a_png_of_few_colours_keeps_those_of_small_areas() -> None:
    """Cells from red to blue on much white: a palette by area alone gives white more shades than all of them."""
    figure = Figure((12, 6))
    axes = figure.add_axes((0.1, 0.1, 0.8, 0.8))
    values = np.random.default_rng(0).standard_normal((24, 63))
    axes.pcolormesh(values, cmap="RdBu", edgecolors="white", linewidth=0.4)
    for row, column in np.ndindex(values.shape):
        axes.text(column + 0.5, row + 0.5, f"{values[row, column]:.1f}", size=6, ha="center", va="center")
    plain = io.BytesIO()
    figure.savefig(plain, format="png", dpi=SHARPNESS * PIXELS_PER_INCH)
    one, other = (np.asarray(Image.open(file).convert("RGB")).astype(int) for file in (plain, _png(figure)))
    assert np.abs(one - other).max() <= 24


def _png(figure: Figure) -> io.BytesIO:
    return io.BytesIO(_drawn(figure, "png"))
