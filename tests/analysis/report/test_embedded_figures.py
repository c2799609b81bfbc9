"""Pictures of the report: smaller than the figure, in its colours."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from dmr.analysis.report.embedded_figures import LARGEST_SVG, MANY_TEXTS, _few_colours, _svg, picture


@pytest.mark.parametrize(("texts", "kind"), [(5, "svg+xml"), (MANY_TEXTS, "png")])
def test_a_picture_lies_beside_its_page_too(tmp_path: Path, texts: int, kind: str) -> None:
    figure = Figure((3, 2))
    for _ in range(texts):
        figure.text(0.5, 0.5, "0.85")
    embedded = picture("trials", "of trials", figure, tmp_path)
    assert embedded.source.startswith(f"data:image/{kind};base64,")
    assert (embedded.width, embedded.height) == (288, 192)
    assert Image.open(tmp_path / "trials.png").size == (576, 384)


def test_a_png_of_few_colours_keeps_those_of_small_areas() -> None:
    """Cells from red to blue on much white: a palette by area alone gives white more shades than all of them."""
    figure = Figure((12, 6))
    axes = figure.add_axes((0.1, 0.1, 0.8, 0.8))
    values = np.random.default_rng(0).standard_normal((24, 63))
    axes.pcolormesh(values, cmap="RdBu", edgecolors="white", linewidth=0.4)
    for row, column in np.ndindex(values.shape):
        axes.text(column + 0.5, row + 0.5, f"{values[row, column]:.1f}", size=6, ha="center", va="center")
    plain = io.BytesIO()
    figure.savefig(plain, format="png")
    pictures = (plain, io.BytesIO(_few_colours(plain.getvalue())))
    one, other = (np.asarray(Image.open(file).convert("RGB")).astype(int) for file in pictures)
    assert np.abs(one - other).max() <= 24
    assert len(figure.findobj(Text)) > MANY_TEXTS
    assert len(_svg(figure)) > LARGEST_SVG
