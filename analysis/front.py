"""Full against worst: which trials no other one beats in both.

Letters: N points.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import drawing
from analysis.compare import Comparison
from analysis.drawing import GREY, LABEL_SIZE, MARKERS, PALETTE, SMALL_SIZE, text_width
from analysis.results import StudyResults, combination_values, trial_values
from analysis.statistics import bootstrap_mean
from analysis.trials import methods_of
from dmr.combinations import combination_name

PANEL, LEFT, BELOW, BETWEEN = 3.3, 0.6, 0.5, 0.75
ENTRY, KEY = 0.17, 0.3
LINE = 0.12
MOST_LABELS = 10

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Points:
    """Index label; columns full and worst, method, front, role (`best`, `defaults` or nothing), and the ends of the
    intervals full_low, full_high, worst_low, worst_high, NaN where there are none.
    """

    frame: pd.DataFrame
    heading: str
    metric: str
    mode: str


def pareto_front(x: npt.ArrayLike, y: npt.ArrayLike, mode: str = "max") -> npt.NDArray[np.bool_]:
    """(N,) True where no point is at least as good in both and better in one. NaN is on no front."""
    sign = 1.0 if mode == "max" else -1.0
    first, second = sign * np.asarray(x, dtype=np.float64), sign * np.asarray(y, dtype=np.float64)
    front = np.zeros(len(first), dtype=bool)
    highest, before = -np.inf, -np.inf  # of y so far; x at which it was reached
    for point in np.lexsort((-second, -first)):
        if np.isnan(first[point]) or np.isnan(second[point]):
            continue
        if second[point] > highest or (second[point] == highest and first[point] == before):
            front[point] = True
            highest, before = second[point], first[point]
    return front


def trial_points(results: StudyResults, defaults: dict[str, int], split: str = "val") -> Points:
    """Of each trial of a search.

    Raises:
        ValueError: no trial has values.
    """
    values, best = combination_values(results, split), trial_values(results)
    full = combination_name(results.modalities, results.modalities)
    if values.empty or full not in values:
        raise ValueError(f"study {results.study}: no trial has values to draw yet")
    methods = methods_of(results)
    frame = pd.DataFrame({"full": values[full], "worst": _worst(values, results.main_mode)}).dropna()
    frame["method"] = methods[frame.index]
    frame["front"] = pareto_front(frame["full"], frame["worst"], results.main_mode)
    frame["role"] = ""
    for method, trial in defaults.items():
        if trial in frame.index and methods.get(trial) == method:
            frame.loc[trial, "role"] = "defaults"
    if len(best) and best.index[0] in frame.index:
        frame.loc[best.index[0], "role"] = "best"
    heading = f"search: {len(frame)} trials, split {split}, one seed a trial"
    return Points(
        _with_ends(frame.set_axis([str(trial) for trial in frame.index])),
        heading,
        results.main_metric,
        results.main_mode,
    )


def entry_points(comparison: Comparison) -> Points:
    """Of each configuration: means over seeds, with bootstrap intervals where there are several."""
    rows = []
    full = comparison.combinations.full
    for entry in comparison.entries:
        worst = entry.values.min(axis=1) if comparison.mode == "max" else entry.values.max(axis=1)
        x, y = (bootstrap_mean(values, 0) for values in (entry.values[:, full], worst))
        role = "defaults" if "defaults" in entry.config.split(", ") else ""
        rows.append((entry.label, x.estimate, y.estimate, entry.method, role, x.low, x.high, y.low, y.high))
    columns = ["label", "full", "worst", "method", "role", "full_low", "full_high", "worst_low", "worst_high"]
    frame = pd.DataFrame(rows, columns=columns).set_index("label")
    if len(frame):
        frame.iloc[0, frame.columns.get_loc("role")] = "best"
    frame["front"] = pareto_front(frame["full"], frame["worst"], comparison.mode)
    seeds = drawing.seeds_text([len(entry.seeds) for entry in comparison.entries] or [1])
    heading = f"confirmed: {len(frame)} configurations, split {comparison.split}, {seeds}"
    return Points(frame, heading, comparison.metric, comparison.mode)


def draw_pareto(panels: Sequence[Points], title: str, subtitle: str) -> Figure:
    """A panel each, better on the right and at the top; below them the key."""
    methods = list(dict.fromkeys(method for panel in panels for method in panel.frame["method"]))
    several = 1 < len(methods) <= len(PALETTE)
    styles = (
        {m: (PALETTE[i], MARKERS[i]) for i, m in enumerate(methods)}
        if several
        else dict.fromkeys(methods, ("#8c8c8c", "o"))
    )
    key = [(*styles[method], method) for method in methods] if several else []
    width = len(panels) * (LEFT + PANEL) + (len(panels) - 1) * (BETWEEN - LEFT) + 2 * drawing.MARGIN + 0.1
    entries = [*((colour, marker, True, text) for colour, marker, text in key)]
    entries += [
        (GREY, "best", False, "best mean"),
        (GREY, "defaults", False, "the file's own values"),
        (GREY, "front", False, "front"),
    ]
    lines = _key_lines(entries, width - 2 * drawing.MARGIN)
    body = 0.35 + PANEL + BELOW + ENTRY * (max(lines[-1][0], 0) + 1) + drawing.MARGIN
    sheet = drawing.Sheet(width, body, title, subtitle)
    top = sheet.top + 0.35
    for number, panel in enumerate(panels):
        axes = sheet.place(drawing.MARGIN + LEFT + number * (PANEL + BETWEEN), top, PANEL, PANEL)
        _draw_panel(axes, panel, styles)
    keys = sheet.place(drawing.MARGIN, top + PANEL + BELOW, width - 2 * drawing.MARGIN, ENTRY * (lines[-1][0] + 1))
    _draw_key(keys, entries, lines, width - 2 * drawing.MARGIN)
    return sheet.figure


def _draw_panel(axes: Axes, panel: Points, styles: dict[str, tuple[str, str]]) -> None:
    frame, mode = panel.frame, panel.mode
    drawing.plain(axes, f"{panel.metric}, all modalities present", f"{panel.metric}, worst combination")
    front = frame[frame["front"]].sort_values(["full", "worst"], ascending=[True, False])
    axes.plot(front["full"], front["worst"], color=GREY, lw=1, zorder=2)
    for method, rows in frame.groupby("method", sort=False):
        colour, marker = styles[str(method)]
        axes.scatter(rows["full"], rows["worst"], s=18, color=colour, marker=marker, lw=0, alpha=0.8, zorder=3)
        with_ends = rows.dropna(subset=["full_low", "worst_low"])
        axes.hlines(with_ends["worst"], with_ends["full_low"], with_ends["full_high"], color=colour, lw=0.8, alpha=0.7)
        axes.vlines(with_ends["full"], with_ends["worst_low"], with_ends["worst_high"], color=colour, lw=0.8, alpha=0.7)
    for role, marker, size in (("best", "o", 90), ("defaults", "s", 60)):
        rows = frame[frame["role"] == role]
        axes.scatter(
            rows["full"], rows["worst"], s=size, facecolor="none", edgecolor="black", marker=marker, lw=1, zorder=4
        )
    axes.margins(0.12)
    for axis in (axes.xaxis, axes.yaxis):
        axis.get_major_locator().set_params(nbins=5)  # type: ignore[attr-defined]
        _widen(axis)
    if mode == "min":
        axes.invert_xaxis()
        axes.invert_yaxis()
    lines = drawing.wrapped(panel.heading, PANEL)
    axes.annotate("\n".join(lines), (0, 1), (0, 4), "axes fraction", "offset points", size=LABEL_SIZE, color=GREY)
    named = frame[frame["front"] | (frame["role"] == "best")]
    few = (
        frame if len(frame) <= MOST_LABELS else named.sort_values("full").iloc[:: max(1, -(-len(named) // MOST_LABELS))]
    )
    place_labels(axes, frame[["full", "worst"]].to_numpy(), few[["full", "worst"]].to_numpy(), list(few.index))


def _widen(axis: object) -> None:
    """A range of the scale that has room for its numbers, where all points are one."""
    low, high = sorted(axis.get_view_interval())  # type: ignore[attr-defined]
    if high - low < 0.01:
        middle = (low + high) / 2
        axis.set_view_interval(middle - 0.005, middle + 0.005, ignore=True)  # type: ignore[attr-defined]


def place_labels(axes: Axes, points: Floats, at: Floats, labels: Sequence[str]) -> list[str]:
    """Write labels beside the points `at` (L, 2), each where it covers no other label, no point (N, 2) and not the edge;
    one that finds no such place is left out. Returns those written.
    """
    position, (wide, high) = axes.get_position(), axes.figure.get_size_inches()  # type: ignore[union-attr]
    size = np.array([position.width * wide, position.height * high])

    def inches(xy: Floats) -> Floats:
        moved: Floats = axes.transLimits.transform(axes.transScale.transform(xy)) * size
        return moved

    dots = inches(points.reshape(-1, 2)) if len(points) else np.empty((0, 2))
    boxes = np.hstack([dots - 0.035, dots + 0.035])
    written = []
    for anchor, label in zip(inches(at.reshape(-1, 2)) if len(labels) else [], labels, strict=True):
        width = text_width(label, SMALL_SIZE) + 0.02
        for distance, angle in [(d, a) for d in (0.1, 0.2, 0.35, 0.5, 0.7, 0.95) for a in range(0, 360, 30)]:
            direction = np.array([np.cos(np.radians(angle)), np.sin(np.radians(angle))])
            centre = anchor + direction * (distance + np.array([width / 2, LINE / 2]) * np.abs(direction))
            box = np.concatenate([centre - (width / 2, LINE / 2), centre + (width / 2, LINE / 2)])
            inside = (box[:2] >= 0.02).all() and (box[2:] <= size - 0.02).all()
            low, top = np.maximum(box[:2], boxes[:, :2]), np.minimum(box[2:], boxes[:, 2:])
            if inside and not ((top - low) > 0).all(axis=1).any():
                boxes = np.vstack([boxes, box])
                written.append(label)
                if distance > 0.15:
                    ends = (
                        np.stack([anchor, centre - direction * np.array([width / 2, LINE / 2]) * np.abs(direction)])
                        / size
                    )
                    axes.plot(*ends.T, transform=axes.transAxes, color="#999999", lw=0.5, zorder=1)
                x, y = centre / size
                axes.text(
                    x, y, label, size=SMALL_SIZE, transform=axes.transAxes, ha="center", va="center", parse_math=False
                )
                break
    return written


def _key_lines(entries: Sequence[tuple[str, str, bool, str]], width: float) -> list[tuple[int, float]]:
    """Line and x of each entry of a key, in lines of `width`."""
    found, line, x = [], 0, 0.0
    for *_, text in entries:
        need = KEY + text_width(text) + 0.1
        if x and x + need > width:
            line, x = line + 1, 0.0
        found.append((line, x))
        x += need
    return found


def _draw_key(
    axes: Axes, entries: Sequence[tuple[str, str, bool, str]], lines: list[tuple[int, float]], width: float
) -> None:
    axes.set_axis_off()
    axes.set_xlim(0, width)
    axes.set_ylim(lines[-1][0] + 1, 0)
    for (colour, marker, filled, text), (line, x) in zip(entries, lines, strict=True):
        y = line + 0.5
        if marker == "front":
            axes.plot([x + 0.03, x + 0.23], [y, y], color=colour, lw=1)
        else:
            shape = {"best": "o", "defaults": "s"}.get(marker, marker)
            style = {"color": colour, "lw": 0} if filled else {"facecolor": "none", "edgecolor": "black", "lw": 1}
            axes.scatter([x + 0.12], [y], s=24 if filled else 60, marker=shape, **style)
        axes.text(x + KEY - 0.02, y, text, size=LABEL_SIZE, va="center", parse_math=False)


def _worst(values: pd.DataFrame, mode: str) -> pd.Series:
    return values.min(axis=1) if mode == "max" else values.max(axis=1)


def _with_ends(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(**dict.fromkeys(("full_low", "full_high", "worst_low", "worst_high"), np.nan))
