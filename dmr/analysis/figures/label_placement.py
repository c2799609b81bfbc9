"""Labels beside points that cover neither each other nor the points.

Letters: N points, L labels. Lengths are inches.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from matplotlib import patheffects
from matplotlib.axes import Axes

from dmr.analysis.figures.style import SMALL_SIZE, text_width

Floats = npt.NDArray[np.float64]
LINE, DOT, THIN, EDGE = 0.12, 0.04, 0.01, 0.02
PLACES = [(distance, angle) for distance in (0.1, 0.2, 0.35, 0.5, 0.7, 0.95) for angle in range(0, 360, 30)]


def place_labels(axes: Axes, points: Floats, lines: Floats, at: Floats, labels: Sequence[str]) -> list[str]:
    """Write labels beside the points `at` (L, 2), each where it covers no other label, no point (N, 2) and not the
    edge, and where possible no point of `lines` (K, 2) either; one that finds no such place is left out. Returns those
    written. The axes have their place and their scales already.
    """
    box, (width, height) = axes.get_position(), axes.figure.get_size_inches()  # type: ignore[union-attr]
    size = np.array([box.width * width, box.height * height])

    def boxes_of(xy: Floats, reach: float) -> Floats:
        middle = axes.transLimits.transform(axes.transScale.transform(xy.reshape(-1, 2))) * size
        return np.hstack([middle - reach, middle + reach])

    taken, thin = boxes_of(points, DOT), boxes_of(lines, THIN)
    written = []
    for anchor, label in zip(boxes_of(at, 0.0)[:, :2], labels, strict=True):
        half = np.array([text_width(label, SMALL_SIZE) + 0.02, LINE]) / 2
        found = _place(anchor, half, size, np.vstack([taken, thin]))
        found = _place(anchor, half, size, taken) if found is None else found
        if found is None:
            continue
        taken = np.vstack([taken, np.concatenate([found - half, found + half])])
        written.append(label)
        (x, y), near = found / size, np.clip(anchor, found - half, found + half)
        if np.hypot(*(near - anchor)) > 0.15:
            axes.plot(*(np.stack([anchor, near]) / size).T, transform=axes.transAxes, color="#999999", lw=0.5, zorder=1)
        text = axes.text(x, y, label, size=SMALL_SIZE, transform=axes.transAxes, ha="center", va="center", zorder=5)
        text.set_parse_math(False)
        text.set_path_effects([patheffects.withStroke(linewidth=1.5, foreground="white")])
    return written


def _place(anchor: Floats, half: Floats, size: Floats, taken: Floats) -> Floats | None:
    """The middle of a box of half size (2,) near the anchor, inside of `size`, that meets no taken box (K, 4)."""
    for distance, angle in PLACES:
        direction = np.array([np.cos(np.radians(angle)), np.sin(np.radians(angle))])
        middle: Floats = anchor + direction * (distance + half * np.abs(direction))
        low, high = middle - half, middle + half
        overlap = np.minimum(high, taken[:, 2:]) - np.maximum(low, taken[:, :2])
        if (low >= EDGE).all() and (high <= size - EDGE).all() and not (overlap > 0).all(axis=1).any():
            return middle
    return None
