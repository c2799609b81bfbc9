"""What factors do: main effects by condition, with their intervals, and by combination of modalities.

Letters: E effects, C combinations.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dmr.analysis.factors.effects import DECLARED, OUTCOMES, FactorEffects
from dmr.analysis.figures import style
from dmr.analysis.figures.combination_heatmap import HeatmapTable
from dmr.analysis.figures.style import GREY, HEADER, LABEL_LINE, LABEL_SIZE, MARGIN, PAD, SMALL_SIZE, text_width, worded
from dmr.analysis.statistics import SIGNIFICANCE

ROW, PANEL, STUDY_GAP = 0.2, 1.7, 0.28


def draw_effects(found: Sequence[FactorEffects]) -> Figure:
    """Main effects of each study, a panel per outcome: a point and its 95 % interval, filled where the effect is found
    after Holm's correction. All panels have one scale, in points (hundredths) of the metric.
    """
    frames = [_main(one) for one in found]
    names = [list(dict.fromkeys(frame["effect"])) for frame in frames]
    left = MARGIN + max(text_width(worded(name)) for own in names for name in own) + PAD
    titles = [f"{one.study} (data {one.dataset}, {one.split}, n = {_n(one)})" for one in found]
    panels = left + len(OUTCOMES) * (PANEL + PAD) + MARGIN
    width = max(panels, style.LONGEST_LINE + 4 * MARGIN, 4 * MARGIN + max(map(text_width, titles)))
    heights = [STUDY_GAP + ROW * len(own) for own in names]
    sheet = style.Sheet(
        width,
        HEADER + sum(heights) + 2 * LABEL_LINE + HEADER,
        f"What each factor does to {found[0].metric}, in points",
        "mean over all cells that differ in this factor alone, paired by seed, with 95 % t interval; filled: told "
        f"from 0 after Holm's correction for a study's main effects on {', '.join(DECLARED)}; the mean is not tested; "
        f"{style.better_end(found[0].mode)}",
    )
    reach = 108 * max(float(frame[["low", "high"]].abs().to_numpy().max()) for frame in frames)
    for column, outcome in enumerate(OUTCOMES):
        x, y = left + column * (PANEL + PAD), sheet.top + HEADER
        for number, (frame, own, title, height) in enumerate(zip(frames, names, titles, heights, strict=True)):
            axes = style.plain(sheet.add_axes(x, y + STUDY_GAP, PANEL, height - STUDY_GAP))
            _draw_panel(axes, frame[frame["outcome"] == outcome], own, labelled=column == 0)
            axes.set_xlim(-reach, reach)
            last = number == len(found) - 1
            axes.tick_params(axis="x", labelbottom=last)
            if number == 0:
                axes.set_title(outcome, size=LABEL_SIZE, pad=HEADER * 72 * 0.8, weight="bold")
            if column == 0:
                at = (MARGIN / sheet.width, 1 - (y + STUDY_GAP - 0.06) / sheet.height)
                sheet.figure.text(*at, worded(title), size=LABEL_SIZE, va="bottom", parse_math=False, weight="bold")
            y += height
    return sheet.figure


def _draw_panel(axes: Axes, rows: pd.DataFrame, names: Sequence[str], labelled: bool) -> None:
    axes.axvline(0.0, color=GREY, lw=0.8)
    for at, name in enumerate(names):
        row = rows[rows["effect"] == name].iloc[0]
        clear = row["p_holm"] <= SIGNIFICANCE
        colour = style.PALETTE[0] if clear else GREY
        axes.plot([100 * row["low"], 100 * row["high"]], [at, at], color=colour, lw=1.4)
        face = colour if clear else "white"
        axes.plot([100 * row["estimate"]], [at], "o", ms=4.2, color=colour, markerfacecolor=face)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_yticks(range(len(names)), [worded(name) for name in names] if labelled else [], size=LABEL_SIZE)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelsize=SMALL_SIZE)


def effect_table(found: FactorEffects) -> HeatmapTable:
    """Main effects on each combination, in the unit of the metric."""
    names = list(dict.fromkeys(found.by_combination["effect"]))
    cells = found.by_combination.pivot(index="effect", columns="combination", values="estimate")
    p_values = found.by_combination.pivot(index="effect", columns="combination", values="p_holm")
    order = list(found.combinations.names)
    main = _main(found)
    levels = main.pivot(index="effect", columns="outcome", values="estimate")
    p_main = main.assign(p=main["p_holm"].fillna(main["p"])).pivot(index="effect", columns="outcome", values="p")
    known = [name for name in OUTCOMES if levels[name].notna().all()]
    return HeatmapTable(
        cells=cells.loc[names, order],
        summaries=levels.loc[names, known],
        modalities=found.combinations.modalities,
        metric=f"effect on {found.metric}",
        better=found.mode,
        title=f"{found.study}: what each factor does to {found.metric}, by combination",
        subtitle=f"data {found.dataset}, split {found.split}; mean over {_n(found)} seeds and all cells that differ in "
        "this factor alone; nearly grey where it is not told from 0 after Holm's correction",
        difference=True,
        muted=~(p_values.loc[names, order] <= SIGNIFICANCE).to_numpy(),
        muted_summaries=~(p_main.loc[names, known] <= SIGNIFICANCE).to_numpy(),
    )


def _main(found: FactorEffects) -> pd.DataFrame:
    return found.effects[found.effects["kind"] == "main"]


def _n(found: FactorEffects) -> int:
    return int(found.effects["n"].max())
