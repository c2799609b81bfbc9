"""Figures as pictures that lie in a page: whichever of SVG and PNG is small enough."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from dmr.analysis.comparison.comparison import Comparison
from dmr.analysis.figures.all_figures import NotDrawn, study_figures
from dmr.analysis.figures.style import PIXELS, save_figure
from dmr.analysis.results.study_results import StudyResults

LARGEST_SVG = 300_000  # bytes; beyond it a PNG is smaller, and quicker to draw
MANY_TEXTS = 450  # whose SVG is larger than that
PIXELS_PER_INCH = 96  # of CSS


@dataclass(frozen=True)
class Picture:
    """A picture as a `data:` URI; width and height in CSS pixels."""

    name: str
    caption: str
    source: str
    width: int
    height: int


def picture(name: str, caption: str, figure: Figure, folder: Path | None = None) -> Picture:
    """A figure as SVG, or as PNG where that would be large.

    Args:
        folder: also save it here, as .png.
    """
    width, height = (round(PIXELS_PER_INCH * inches) for inches in figure.get_size_inches())
    png = None if folder is None else save_figure(figure, folder / f"{name}.png").read_bytes()
    content = _svg(figure) if len(figure.findobj(Text)) < MANY_TEXTS else None
    if content is not None and len(content) <= LARGEST_SVG:
        kind = "svg+xml"
    else:
        kind, content = "png", _few_colours(png or _png(figure))
    source = f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
    return Picture(name, caption, source, width, height)


def pictures_of(
    search: StudyResults,
    confirmed: StudyResults | None,
    comparison: Comparison | None,
    read: Callable[[str, str], bytes | None],
    folder: Path | None = None,
) -> tuple[list[Picture], list[tuple[str, str]]]:
    """The figures of a study, and the names of those that cannot be drawn, with the reason.

    Args:
        folder: also save them here, as .png.
    """
    pictures, missing = [], []
    for found in study_figures(search, confirmed, comparison, read):
        if isinstance(found, NotDrawn):
            missing.append((found.name, found.reason))
            continue
        pictures.append(picture(*found, folder))
    return pictures, missing


def _svg(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": "dmr"}):  # the same figure gives the same bytes
        figure.savefig(buffer, format="svg", dpi=PIXELS, metadata={"Date": None})
    return buffer.getvalue()


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=PIXELS)
    return buffer.getvalue()


def _few_colours(png: bytes) -> bytes:
    """A drawing needs no more than 256 colours, and a third of the bytes; chosen so that no colour is far from its own,
    however few pixels have it.
    """
    buffer = io.BytesIO()
    Image.open(io.BytesIO(png)).convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE).save(
        buffer, "png", optimize=True
    )
    return buffer.getvalue()
