"""Figures as pictures that lie in a page: whichever of SVG and PNG is small enough."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure
from PIL import Image

from dmr.analysis.comparison.comparison import Comparison
from dmr.analysis.figures.all_figures import NotDrawn, study_figures
from dmr.analysis.figures.style import save_figure
from dmr.analysis.results.study_results import StudyResults

LARGEST_SVG = 300_000  # bytes; beyond it a PNG is smaller, and quicker to draw
PIXELS_PER_INCH, SHARPNESS = 96, 2.0  # of CSS, and pixels of a PNG for each of them


@dataclass(frozen=True)
class Picture:
    """A picture as a `data:` URI; width and height in CSS pixels."""

    name: str
    caption: str
    source: str
    width: int
    height: int


def picture(name: str, caption: str, figure: Figure) -> Picture:
    """A figure as SVG, or as PNG where that would be large."""
    width, height = (round(PIXELS_PER_INCH * inches) for inches in figure.get_size_inches())
    kind, content = "svg+xml", _drawn(figure, "svg")
    if len(content) > LARGEST_SVG:
        kind, content = "png", _drawn(figure, "png")
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
        pictures.append(picture(*found))
        if folder is not None:
            save_figure(found.figure, folder / f"{found.name}.png")
    return pictures, missing


def _drawn(figure: Figure, kind: str) -> bytes:
    buffer = io.BytesIO()
    metadata = {"Date": None} if kind == "svg" else None
    with mpl.rc_context({"svg.hashsalt": "dmr"}):  # the same figure gives the same bytes
        figure.savefig(buffer, format=kind, dpi=SHARPNESS * PIXELS_PER_INCH, metadata=metadata)
    return buffer.getvalue() if kind == "svg" else _few_colours(buffer)


def _few_colours(png: io.BytesIO) -> bytes:
    """A drawing needs no more than 256 colours, and a third of the bytes; chosen so that no colour is far from its own,
    however few pixels have it.
    """
    buffer = io.BytesIO()
    Image.open(png).convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE).save(buffer, "png", optimize=True)
    return buffer.getvalue()
