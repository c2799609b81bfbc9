"""The tables of `dmr compare --across` on the screen."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from dmr.analysis.results.record_names import counted
from dmr.studies.cli.comparison_screen import LABEL_WIDTH, NOTHING, interval_text, screen_table

if TYPE_CHECKING:
    import pandas as pd

    from dmr.analysis.comparison.across import Across

CELL = 22  # a mean and its interval: 0.8123 (0.8012–0.8234)


def show_across(found: Across, console: Console | None = None) -> None:
    """What is measured on each data set; then by summary where methods stand, and how good each is on each."""
    out = console or Console(highlight=False)
    for one in found.data_sets:
        text = f"{one.study}: data {one.dataset}; {one.metric} on test, over {one.combinations} combinations"
        out.print(f"{text}, chosen on val by the {one.measure.name}", markup=False)
    studies = [one.study for one in found.data_sets]
    fitting = max(1, (out.width - LABEL_WIDTH) // (CELL + 1))
    for summary in found.summaries:
        out.print(_standings(found, summary))
        for start in range(0, len(studies), fitting):
            out.print(_levels(found, summary, studies[start : start + fitting]))


def _standings(found: Across, summary: str) -> Table:
    """Best mean rank first."""
    title = f"{summary}, over {counted(len(found.data_sets), 'data set')}: mean rank; won/tied/lost against all others "
    title += f"and against {found.reference}; P, the chance that a run is better than one of {found.reference}"
    versus = ["won/tied/\nlost", "P", "95 %\ninterval"] if len(found.methods) > 1 else []
    table = screen_table(title, "method", ["mean\nrank", "95 %\ninterval", "won/tied/\nlost, all", *versus])
    ranks = found.ranks[found.ranks["summary"] == summary].sort_values("mean_rank", kind="stable")
    pairs = found.pairs[(found.pairs["summary"] == summary) & (found.pairs["other"] == found.reference)]
    against = pairs.set_index("method")
    for _, rank in ranks.iterrows():
        method, cells = rank["method"], [f"{rank['mean_rank']:.2f}", _short(rank), _outcomes(rank)]
        if method in against.index:
            pair = against.loc[method]
            cells += [_outcomes(pair), f"{pair['probability']:.2f}", _short(pair)]
        else:
            cells += [NOTHING] * len(versus)
        table.add_row(f"{method} (reference)" if method == found.reference else method, *cells)
    return table


def _levels(found: Across, summary: str, studies: Sequence[str]) -> Table:
    """Means over seeds with their intervals; of methods that not all data sets have, too."""
    rows = found.levels[found.levels["summary"] == summary].set_index(["study", "method"])
    others = [method for method in rows.index.get_level_values("method").unique() if method not in found.methods]
    table = screen_table(f"{summary} on test, mean over seeds (95 % interval)", "method", studies, width=CELL)
    for method in (*found.methods, *others):
        own = [rows.loc[(study, method)] if (study, method) in rows.index else None for study in studies]
        table.add_row(method, *(NOTHING if row is None else _level(row) for row in own))
    return table


def _level(row: pd.Series) -> str:
    interval = "" if math.isnan(row["low"]) else f" ({interval_text(row['low'], row['high'])})"
    return f"{row['mean']:.4f}{interval}"


def _short(row: pd.Series) -> str:
    return f"{row['low']:.2f}–{row['high']:.2f}"


def _outcomes(row: pd.Series) -> str:
    return "/".join(str(row[which]) for which in ("wins", "ties", "losses"))
