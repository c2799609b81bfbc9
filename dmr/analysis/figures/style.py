"""What the figures share: colours, measured text, a figure laid out in inches, dots of combinations, files.

Letters: C combinations, M modalities. Lengths are inches, sizes of letters and dots points.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path

from dmr.direction import Direction
from dmr.files import whole_file

FORMATS = (".png", ".svg", ".pdf")
TITLE_SIZE, LABEL_SIZE, SMALL_SIZE = 11.0, 8.0, 7.0
TITLE_LINE, LABEL_LINE, HEADER = 0.21, 0.15, 0.32
MARGIN, GAP, PAD, DOT_ROW = 0.15, 0.16, 0.1, 0.24
LONGEST_LINE = 9.0
PIXELS = 192  # per inch of a .png: two for each of a page
GREY, INK = "#444444", "#222222"
# Okabe and Ito (2008), without black and yellow: told apart with any colour vision
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
MARKERS = "osD^vP"


@dataclass(frozen=True)
class Wording:
    """How figures speak: names to be replaced, whether there is a title, and which of the names were `met`."""

    labels: Mapping[str, str] = field(default_factory=dict)
    title: bool = True
    met: set[str] = field(default_factory=set)


_WORDING: ContextVar[Wording | None] = ContextVar("wording", default=None)


@contextmanager
def wording(labels: Mapping[str, str], title: bool = True) -> Iterator[Wording]:
    """What is drawn in here has other names, such as a method's or a whole label's, and perhaps no title."""
    now = Wording(labels, title)
    token = _WORDING.set(now)
    try:
        yield now
    finally:
        _WORDING.reset(token)


def worded(text: str) -> str:
    """A label as figures show it: `dropout best 1 (= defaults)` for `dropout best 1, defaults`, unless it, or a name in
    it, was given another name.
    """
    now = _WORDING.get()
    if now is not None and now.labels:
        longest = "|".join(map(re.escape, sorted(now.labels, key=len, reverse=True)))

        def renamed(found: re.Match[str]) -> str:
            now.met.add(found[0])
            return now.labels[found[0]]

        text = re.sub(rf"(?<![\w.-])(?:{longest})(?![\w.-])", renamed, text)
    return re.sub(r"\b(best \d+), defaults\b", r"\1 (= defaults)", text)


class Sheet:
    """A figure of `width` by `height` inches, with its title and subtitle at the top left, wrapped, where it has them.

    Attributes:
        top: where what is below them may begin, from the top.
    """

    def __init__(self, width: float, body: float, title: str, subtitle: str) -> None:
        """`body`: inches needed below the subtitle, the lower margin among them."""
        now = _WORDING.get()
        shown = now is None or now.title
        titles = wrapped(worded(title), width - 2 * MARGIN, TITLE_SIZE, "bold") if shown else []
        subtitles = wrapped(worded(subtitle), min(width - 2 * MARGIN, LONGEST_LINE)) if shown else []
        under_title = MARGIN + TITLE_LINE * len(titles)
        self.top = under_title + LABEL_LINE * len(subtitles)
        self.width, self.height = width, self.top + body
        self.figure = Figure((self.width, self.height))
        self._write(MARGIN, titles, TITLE_SIZE, "bold", "black")
        self._write(under_title, subtitles, LABEL_SIZE, "normal", GREY)

    def add_axes(self, x: float, y: float, width: float, height: float) -> Axes:
        """Axes of that many inches, x from the left, y from the top."""
        return self.figure.add_axes(
            (x / self.width, 1 - (y + height) / self.height, width / self.width, height / self.height)
        )

    def _write(self, y: float, lines: Sequence[str], size: float, weight: str, colour: str) -> None:
        x, text = MARGIN / self.width, "\n".join(lines)
        style: dict[str, Any] = {"size": size, "weight": weight, "color": colour}
        self.figure.text(x, 1 - y / self.height, text, va="top", parse_math=False, **style)


def save_figure(figure: Figure, path: Path) -> Path:
    """Write a .png, .svg or .pdf file; the file is there whole or not at all.

    Raises:
        ValueError: another ending, or no such directory.
    """
    check_target(path)
    with whole_file(path) as partial, rc_context({"pdf.fonttype": 42, "svg.fonttype": "none"}):  # text stays text
        figure.savefig(partial, dpi=PIXELS)
    return path


def check_target(path: Path) -> None:
    """Raises:
    ValueError: a figure cannot be written there.
    """
    if path.suffix.lower() not in FORMATS:
        raise ValueError(f"{path}: a figure ends in {', '.join(FORMATS)}")
    if not path.parent.is_dir():
        raise ValueError(f"{path}: there is no directory {path.parent}")
    if path.is_dir():
        raise ValueError(f"{path}: is a directory; a file is needed")


def draw_dots(axes: Axes, masks: npt.NDArray[np.bool_], modalities: tuple[str, ...], size: float = 5.2) -> Axes:
    """Masks (C, M): one column per combination, a dot where present, joined by a line (UpSet, Lex et al. 2014)."""
    columns, count = masks.shape
    first, last = masks.argmax(axis=1), count - 1 - masks[:, ::-1].argmax(axis=1)
    for row in range(0, count, 2):
        axes.axhspan(row - 0.5, row + 0.5, color="#f0f0f0", lw=0)
    absent_x, absent_y = np.nonzero(~masks)
    present_x, present_y = np.nonzero(masks)
    axes.scatter(absent_x + 0.5, absent_y, s=0.6 * size**2, color="#c8c8c8", lw=0, zorder=2)
    axes.vlines(np.arange(columns) + 0.5, first, last, color=INK, lw=0.24 * size, zorder=3)
    axes.scatter(present_x + 0.5, present_y, s=size**2, color=INK, lw=0, zorder=4)
    axes.set_xlim(0, columns)
    axes.set_ylim(count - 0.5, -0.5)
    axes.set_xticks([])
    axes.set_yticks(range(count), modalities, size=LABEL_SIZE)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return axes


def plain(axes: Axes, x: str = "", y: str = "") -> Axes:
    """Axes for curves and points: labels in our size, a pale grid, no box."""
    axes.set_xlabel(worded(x), size=LABEL_SIZE)
    axes.set_ylabel(worded(y), size=LABEL_SIZE)
    axes.tick_params(labelsize=SMALL_SIZE, length=2)
    axes.grid(color="#e8e8e8", lw=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return axes


def better_end(mode: Direction) -> str:
    """`higher is better`, or `lower is better`."""
    return f"{'higher' if mode is Direction.MAX else 'lower'} is better"


def seeds_text(counts: Sequence[int]) -> str:
    """How many seeds: `one seed`, `5 seeds`, `3 to 5 seeds`."""
    low, high = min(counts), max(counts)
    return ("one seed" if low == 1 else f"{low} seeds") if low == high else f"{low} to {high} seeds"


def complete_trials_text(early: int) -> str:
    """What to say behind `trials` where those that were stopped `early` are left out."""
    return f" trained to their end ({early} stopped early {'is' if early == 1 else 'are'} left out)" if early else ""


def number(value: float) -> str:
    return f"{value:.2f}" if abs(value) < 10 else f"{value:.0f}"


def short_number(value: float) -> str:
    """At most two digits: .85, 1.0, 12."""
    text = f"{value:.2f}"
    return text.removeprefix("0") if text.startswith("0") else f"{value:.1f}" if value < 9.95 else f"{value:.0f}"


def signed_number(value: float, decimals: int = 2) -> str:
    """+0.12, −0.03, 0.00, −12"""
    text = f"{abs(value):.{decimals}f}" if abs(value) < 9.95 else f"{abs(value):.0f}"
    return text if not text.strip("0.") else f"{'+' if value > 0 else '−'}{text}"


def short_signed_number(value: float, decimals: int = 2) -> str:
    """The same without the 0 before the point and without plus, which colour tells."""
    text = signed_number(value, decimals).removeprefix("+")
    return text.replace("0.", ".", 1) if text.removeprefix("−").startswith("0.") else text


def text_width(text: str, size: float = LABEL_SIZE, weight: str = "normal") -> float:
    font = FontProperties(size=size, weight=weight)
    return float(text_to_path.get_text_width_height_descent(text, font, ismath=False)[0]) / 72


def wrapped(text: str, width: float, size: float = LABEL_SIZE, weight: str = "normal") -> list[str]:
    """`text` in lines that fit; only a word wider than a line is broken."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if text_width(longer, size, weight) <= width:
            lines[-1] = longer
            continue
        lines.append("")
        for letter in word:
            if text_width(lines[-1] + letter, size, weight) > width:
                lines.append("")
            lines[-1] += letter
    return [line for line in lines if line]
