"""Pictures of the report: smaller than the figure, in its colours."""

from __future__ import annotations

import io

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from dmr.analysis.report.embedded_figures import PIXELS_PER_INCH, SHARPNESS, _drawn


def test_a_png_of_few_colours_keeps_those_of_small_areas() -> None:
    """Cells from red to blue on much white: a palette by area alone gives white more shades than all of them."""
    figure = Figure((4, 2))
    axes = figure.add_axes((0.1, 0.1, 0.3, 0.3))
    axes.pcolormesh(np.linspace(-1, 1, 400).reshape(20, 20), cmap="RdBu", edgecolors="white", linewidth=0.4)
    figure.text(0.5, 0.5, "many grey levels of letters")
    plain = io.BytesIO()
    figure.savefig(plain, format="png", dpi=SHARPNESS * PIXELS_PER_INCH)
    one, other = (np.asarray(Image.open(file).convert("RGB")).astype(int) for file in (plain, _png(figure)))
    assert np.abs(one - other).max() <= 24


def _png(figure: Figure) -> io.BytesIO:
    return io.BytesIO(_drawn(figure, "png"))
