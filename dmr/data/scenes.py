"""Drawn rooms in colour and depth with label maps, in which each of two classes is visible to one of the two only.

A wall with a grid of 3 × 3 cells, each empty or with one thing, drawn independently of all others, so that neither
neighbours nor who hides whom tell anything:

- `poster` and `box`: rectangles of one size and one colour; the poster lies flat on the wall, the box stands out.
- `cushion` and `ball`: domed ellipses of one size and one depth; their colours differ.
- distractors that belong to the wall: a stain (colour alone) and a niche (depth alone).

`box` and `ball` are the rare ones of their pairs. Who cannot tell a pair apart is best off with the frequent one.

Letters: N scenes, H = W pixels per side, K pixels per side of a cell.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dmr.data.dataset import Modality, MultimodalDataset, Split
from dmr.seeds import derive_seed
from dmr.settings import setting

Floats = npt.NDArray[np.float32]

CLASS_NAMES = ("wall", "poster", "box", "cushion", "ball")
IGNORE_INDEX = 255
FRAME = 1  # pixels at the border of every scene, not labelled
GRID = 3
WALL_DEPTH = (2.8, 3.4)  # metres
WALL_SLOPE = 0.15  # metres from the middle of the wall to its border, at most
WALL_BRIGHTNESS = (0.6, 0.8)
LIGHT = 0.1  # relative change of brightness from the middle to the border, at most
COLOUR_SPREAD, COLOUR_NOISE, DEPTH_NOISE = 0.04, 0.04, 0.02  # of a thing, of a pixel, of a pixel (metres)
HALF_SIZES = (0.22, 0.42)  # of a thing, in cells


@dataclass(frozen=True)
class _Thing:
    """What a cell can hold.

    Attributes:
        share: of the cells.
        colour: mean red, green and blue; None is the wall's own.
        near: from and to how much nearer than the wall it is, in metres.
        dome: how much nearer still the middle of an ellipse is, in metres; None is a rectangle.
    """

    label: int
    share: float
    colour: tuple[float, float, float] | None = None
    near: tuple[float, float] = (0.0, 0.0)
    dome: float | None = None


EMPTY = _Thing(0, 0.26)  # with the stain more than posters, so that depth alone takes a poster for wall
THINGS = (
    EMPTY,
    _Thing(1, 0.28, (0.75, 0.35, 0.20)),
    _Thing(2, 0.06, (0.75, 0.35, 0.20), near=(0.5, 0.8)),
    _Thing(3, 0.26, (0.25, 0.35, 0.75), near=(0.2, 0.3), dome=0.15),
    _Thing(4, 0.055, (0.25, 0.65, 0.30), near=(0.2, 0.3), dome=0.15),
    _Thing(0, 0.045, (0.35, 0.35, 0.35)),
    _Thing(0, 0.04, near=(-0.5, -0.3)),
)


@dataclass(frozen=True)
class ScenesSettings:
    """Pixels a side and numbers of scenes; `seed` draws them."""

    size: int = setting(48, ge=24, le=128)
    train: int = setting(400, ge=2, le=5000)
    val: int = setting(100, ge=2, le=5000)
    test: int = setting(200, ge=2, le=5000)
    seed: int = setting(0, ge=0)


def scenes(settings: ScenesSettings) -> MultimodalDataset:
    """`rgb` (3, H, W), mostly in [0, 1], and `depth` (1, H, W) in metres, float32; the description names the classes
    that are visible to one of them only.
    """
    size = settings.size
    splits = {
        split: _draw(count, size, np.random.default_rng(derive_seed("scenes", settings.seed, split)))
        for split, count in (("train", settings.train), ("val", settings.val), ("test", settings.test))
    }
    return MultimodalDataset(
        "scenes",
        "segmentation",
        CLASS_NAMES,
        (Modality("rgb", "image", (3, size, size)), Modality("depth", "image", (1, size, size))),
        splits,
        {"only_depth": "box", "only_colour": "ball"},
        IGNORE_INDEX,
    )


def _draw(count: int, size: int, draw: np.random.Generator) -> Split:
    uniform, across = draw.uniform, np.linspace(-1.0, 1.0, size)

    def slope(most: float) -> Floats:
        """(N, H, W) a plane that changes by at most `most` from the middle to a border, along each axis."""
        down, right = uniform(-most, most, (2, count, 1, 1))
        return np.asarray(down * across[:, None] + right * across, dtype=np.float32)

    depth = (uniform(*WALL_DEPTH, (count, 1, 1)) + slope(WALL_SLOPE)).astype(np.float32)
    tint = uniform(-COLOUR_SPREAD, COLOUR_SPREAD, (count, 3, 1, 1))
    rgb = np.broadcast_to(uniform(*WALL_BRIGHTNESS, (count, 1, 1, 1)) + tint, (count, 3, size, size)).astype(np.float32)
    labels = np.zeros((count, size, size), dtype=np.int64)
    cell = size // GRID
    for row, column in np.ndindex(GRID, GRID):
        at = (..., slice(row * cell, (row + 1) * cell), slice(column * cell, (column + 1) * cell))
        _fill(rgb[at], depth[at], labels[at], draw)
    rgb *= 1.0 + slope(LIGHT)[:, None]
    rgb += COLOUR_NOISE * draw.standard_normal(rgb.shape, dtype=np.float32)
    depth += DEPTH_NOISE * draw.standard_normal(depth.shape, dtype=np.float32)
    inside = slice(FRAME, size - FRAME)
    framed = np.full_like(labels, IGNORE_INDEX)
    framed[:, inside, inside] = labels[:, inside, inside]
    return Split({"rgb": rgb, "depth": depth[:, None]}, framed)


def _fill(rgb: Floats, depth: Floats, labels: npt.NDArray[np.int64], draw: np.random.Generator) -> None:
    """Put a thing into one cell of every scene, in place: colour (N, 3, K, K), depth and labels (N, K, K)."""
    count, cell = len(labels), labels.shape[-1]
    chosen = draw.choice(len(THINGS), count, p=[thing.share for thing in THINGS])
    halves = draw.uniform(*HALF_SIZES, (2, count, 1, 1)) * cell
    tints = COLOUR_SPREAD * draw.standard_normal((count, 3, 1, 1))
    nearer = draw.uniform(0.0, 1.0, (count, 1, 1))
    middles = halves + draw.uniform(0.0, 1.0, halves.shape) * (cell - 2.0 * halves)
    pixels = np.arange(cell) + 0.5
    away = np.stack(np.broadcast_arrays(pixels[:, None] - middles[0], pixels - middles[1])) / halves  # 1 at the sides
    for number, thing in enumerate(THINGS):
        if thing is EMPTY:
            continue
        radius = np.abs(away).max(axis=0) if thing.dome is None else np.sqrt((away**2).sum(axis=0))
        covered = (radius <= 1.0) & (chosen == number)[:, None, None]
        labels[covered] = thing.label
        rise = thing.near[0] + nearer * (thing.near[1] - thing.near[0])
        if thing.dome is not None:
            rise = rise + thing.dome * np.sqrt(np.clip(1.0 - radius**2, 0.0, None))
        depth -= np.where(covered, rise, 0.0).astype(np.float32)
        if thing.colour is not None:
            colour = np.array(thing.colour)[:, None, None] + tints
            np.copyto(rgb, colour.astype(np.float32), where=covered[:, None])
