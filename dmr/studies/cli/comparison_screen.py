"""The tables of `dmr compare` on the screen."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from dmr.analysis.results.record_names import SAMPLED, SHAPLEY, SUMMARIES, WITHOUT
from dmr.direction import Direction

if TYPE_CHECKING:
    import pandas as pd

    from dmr.analysis.comparison.comparison import Comparison
    from dmr.analysis.factors.effects import FactorEffects

FEW_COMBINATIONS = 15
LABEL_WIDTH, ENTRY_WIDTH = 28, 13
MARK = "p ≤ 0.05 after Holm's correction"
UNBOUNDED = 1_000
NOTHING = "-"


class Column(NamedTuple):
    """A column of the entries' table: its heading and the text of a row."""

    heading: str
    text: Callable[[pd.Series], str]


def show_comparison(comparison: Comparison, console: Console | None = None) -> None:
    """The entries; what is lost without each modality; the combinations; how entries differ, where the console is too
    narrow for that beside the entries; how the credit is shared.
    """
    out = console or Console(highlight=False)
    level, differences = _level(comparison), _differences(comparison)
    metric, combinations = comparison.metric, comparison.combinations_text
    title = f"{', '.join(comparison.studies)}: {metric} on {comparison.split} over {combinations} combinations, best "
    title += f"{comparison.by} first"
    if comparison.samples_text:
        title += f"; on {comparison.samples_text}"
    if comparison.deployment and "expected" in comparison.summary:
        odds = ", ".join(f"{name} {chance:g}" for name, chance in comparison.deployment.items())
        title += f"; expected with odds {odds}"
    whole = _entries_table(comparison, title, level + differences)
    fits = Measurement.get(out, out.options.update_width(UNBOUNDED), whole).maximum <= out.width or not differences
    out.print(whole if fits else _entries_table(comparison, title, level))
    lost = _lost_table(comparison)
    if lost.row_count:
        out.print(lost)
    few = len(comparison.combinations) <= FEW_COMBINATIONS
    out.print(_combinations_table(comparison, out.width) if few else _largest_differences(comparison))
    if not fits:
        title = f"differences of the {comparison.by}, and p after Holm's correction"
        out.print(_entries_table(comparison, title, differences))
    worth = [name for name in comparison.summary if str(name).startswith(SHAPLEY)]
    if worth:
        columns = [Column(str(name).removeprefix(SHAPLEY), _number(str(name), signed=True)) for name in worth]
        out.print(_entries_table(comparison, f"how the credit for {metric} is shared (Shapley value)", columns))


def show_effects(found: FactorEffects, console: Console | None = None) -> None:
    """What each factor does, and each pair of them: effect ± half of its 95 % interval by outcome, in points."""
    from dmr.analysis.factors.effects import DECLARED, OUTCOMES
    from dmr.analysis.statistics import SIGNIFICANCE

    out = console or Console(highlight=False)
    for kind in dict.fromkeys(found.effects["kind"]):
        rows = found.effects[found.effects["kind"] == kind].set_index(["effect", "outcome"])
        marked = (rows["p_holm"] <= SIGNIFICANCE).any()
        title = f"{found.study}: {kind} effects on {found.metric} on {found.split}, in points, ± 95 % over "
        title += f"{rows['n'].max()} seeds" + (f"; * {MARK}" if marked else "")
        table = screen_table(title, "effect", OUTCOMES)
        for effect in dict.fromkeys(rows.index.get_level_values("effect")):
            table.add_row(effect, *(_effect(rows.loc[(effect, outcome)], SIGNIFICANCE) for outcome in OUTCOMES))
        out.print(table)
        seen = rows["detectable"].unstack()[list(DECLARED)].max()
        text = ", ".join(f"{100 * value:.2f} on {outcome}" for outcome, value in seen.items())
        out.print(f"Found in 4 of 5 experiments like this: effects of {text}.\n")


def _effect(row: pd.Series, level: float) -> str:
    if math.isnan(row["estimate"]):
        return NOTHING
    star = "*" if row["p_holm"] <= level else " "
    return f"{100 * row['estimate']:+.2f} ± {50 * (row['high'] - row['low']):.2f}{star}"


def _level(comparison: Comparison) -> list[Column]:
    """How good each entry is: first by what orders them, with its interval."""
    by = comparison.by
    low, high = ("low", "high") if by == "mean" else (f"{by}_low", f"{by}_high")
    columns = [
        Column("seeds", lambda row: str(row["seeds"])),
        Column(by, _number(by)),
        Column("95 %\ninterval", lambda row: interval_text(row[low], row[high])),
        *(Column(name, _number(name)) for name in ("mean", "iqm", *SUMMARIES[1:]) if name != by),
    ]
    return _known(comparison, columns, comparison.summary)


def _differences(comparison: Comparison) -> list[Column]:
    """How each entry differs from others; no column that would be empty."""
    columns = [
        Column("−\nreference", _number("minus_reference", signed=True)),
        Column("p\nseeds", _p("p_seeds_holm")),
        Column("p\nsamples" if comparison.metric == SAMPLED else "p\nsamples\n(pixels)", _p("p_samples_holm")),
        Column("−\ndefaults", _number("minus_defaults", signed=True)),
        Column("p\ndefaults", _p("p_defaults_holm")),
        Column("gap to\ndedi-\ncated", _number("gap_to_dedicated", signed=True)),
        Column("worse\nwith\nmore", _number("worse_with_more")),
    ]
    return _known(comparison, columns, comparison.summary)


def _known(comparison: Comparison, columns: Iterable[Column], frame: pd.DataFrame) -> list[Column]:
    return [column for column in columns if any(column.text(row) != NOTHING for _, row in frame.iterrows())]


def _entries_table(comparison: Comparison, title: str, columns: Sequence[Column]) -> Table:
    table = screen_table(title, "entry", [column.heading for column in columns])
    for label, row in comparison.summary.iterrows():
        shown = f"{label} (reference)" if label == comparison.reference else str(label)
        table.add_row(shown, *(column.text(row) for column in columns))
    return table


def _lost_table(comparison: Comparison) -> Table:
    """What the reference loses without each modality, least first: which sensor can go."""
    row = next(row for label, row in comparison.summary.iterrows() if label == comparison.reference)
    known = [name for name in comparison.combinations.modalities if f"{WITHOUT}{name}" in row]
    turned = "" if comparison.mode is Direction.MAX else ", turned so that more is worse"
    title = f"{comparison.metric} lost without each modality{turned}, {comparison.reference}"
    several = row["seeds"] > 1
    table = screen_table(title, "without", ["lost", *(["95 %\ninterval"] if several else [])])
    for name in sorted(known, key=lambda name: float(row[f"{WITHOUT}{name}"])):
        low, high = (row[f"{WITHOUT}{name}_{end}"] for end in ("low", "high"))
        interval = [f"{low:+.4f} to {high:+.4f}"] if several else []
        table.add_row(name, _number(f"{WITHOUT}{name}", signed=True)(row), *interval)
    return table


def _combinations_table(comparison: Comparison, width: int) -> Table:
    """A row per combination, a column per entry, as many as the width has room for: the reference, then the best
    configurations, then others. Stars are of the metric that is shown: where a single sample has none, over seeds.
    """
    from dmr.analysis.statistics import SIGNIFICANCE

    frame, labels = comparison.by_combination, [entry.label for entry in comparison.entries]
    best = [entry.label for entry in comparison.entries if entry.is_best]
    order = [comparison.reference, *best, *labels]
    fitting = max(1, (width - LABEL_WIDTH) // (ENTRY_WIDTH + 2))
    shown = list(dict.fromkeys(order))[:fitting]
    title = f"{comparison.metric} of each combination"
    if len(shown) < len(labels):
        title += f", {len(shown)} of {len(labels)} entries (-o DIR writes all)"
    means = frame.pivot(index="combination", columns="label", values="mean")
    over, column = _tested(comparison)
    p_values = frame.pivot(index="combination", columns="label", values=column)
    marked = p_values[shown] <= SIGNIFICANCE
    if marked.any(axis=None):
        title += f"; * differs from {comparison.reference} over {over}, {MARK}"
    table = screen_table(title, "combination", shown, width=ENTRY_WIDTH)
    for name in comparison.combinations.names:
        row, stars = means.loc[name, shown], marked.loc[name]
        table.add_row(name, *(f"{value:.4f}{'*' if star else ' '}" for value, star in zip(row, stars, strict=True)))
    return table


def _largest_differences(comparison: Comparison) -> Table:
    """Of many combinations those in which an entry is furthest from the reference; without others, the weakest."""
    frame = comparison.by_combination
    means = frame[frame["label"] == comparison.reference].set_index("combination")["mean"]
    others = frame[frame["minus_reference"].notna()]
    if others.empty:
        table = screen_table(
            f"{comparison.metric} of the {FEW_COMBINATIONS} weakest combinations", "combination", ["mean"]
        )
        for name, value in means.sort_values(ascending=comparison.mode is Direction.MAX)[:FEW_COMBINATIONS].items():
            table.add_row(str(name), f"{value:.4f}")
        return table
    over, column = _tested(comparison)
    others = others.loc[others["minus_reference"].abs().sort_values(ascending=False, kind="stable").index]
    title = (
        f"{comparison.metric}: the {FEW_COMBINATIONS} largest differences to {comparison.reference} in a combination "
        f"(-o DIR writes all); p over {over} after Holm's correction for all of them"
    )
    table = screen_table(title, "combination", ["entry", "mean", "reference", "difference", f"p {over.split()[-1]}"])
    for _, row in others[:FEW_COMBINATIONS].iterrows():
        numbers = (f"{row['mean']:.4f}", f"{means[row['combination']]:.4f}", f"{row['minus_reference']:+.4f}")
        table.add_row(str(row["combination"]), str(row["label"]), *numbers, _p(column)(row))
    return table


def _tested(comparison: Comparison) -> tuple[str, str]:
    """Over what differences in a combination are tested, and the column of that p."""
    return ("test samples", "p_samples_holm") if comparison.metric == SAMPLED else ("seeds", "p_holm")


def screen_table(title: str, first: str, columns: Sequence[str], width: int | None = None) -> Table:
    """A table without rows, its first column for names; the others `width` wide, else as wide as their numbers."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, collapse_padding=True, pad_edge=False)
    table.add_column(first, overflow="fold", min_width=14, max_width=LABEL_WIDTH)
    for column in columns:
        table.add_column(column, justify="right", overflow="fold", no_wrap=width is None, max_width=width)
    return table


def _number(name: str, signed: bool = False) -> Callable[[pd.Series], str]:
    def text(row: pd.Series) -> str:
        value = row.get(name, math.nan)
        return NOTHING if math.isnan(value) else f"{round(value, 4) + 0.0:{'+' if signed else ''}.4f}"  # no -0.0000

    return text


def _p(name: str) -> Callable[[pd.Series], str]:
    def text(row: pd.Series) -> str:
        value = row[name]
        return NOTHING if math.isnan(value) else f"{value:.4f}" if value < 0.01 else f"{value:.2f}"

    return text


def interval_text(low: float, high: float) -> str:
    """`0.8123–0.8345`, or that there is none."""
    return NOTHING if math.isnan(low) else f"{low:.4f}–{high:.4f}"
