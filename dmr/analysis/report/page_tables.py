"""The tables of a report: from frames to columns and cells that a template writes down."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd

from dmr.analysis.comparison.comparison import Comparison
from dmr.analysis.figures.style import better_end
from dmr.analysis.results.record_names import BLOCK, SHAPLEY, SUMMARIES, WITHOUT, counted, summary_metric
from dmr.analysis.results.study_results import StudyResults, complete_words, stopped_trials, trial_values, value_text
from dmr.direction import Direction

NOTHING = "–"
WITHOUT_TITLE = "what is lost without this modality where all others are there; below it the 95 % interval over seeds"
SHAPLEY_TITLE = "its share of the credit; all together add up to the full value minus that without any modality"
COLUMNS = {  # of a comparison's summary: heading, and what it says on hovering
    "mean": ("mean", "mean over combinations, then over seeds; below it the 95 % interval over seeds"),
    "iqm": ("interquartile mean", "the same without the lowest and the highest quarter of the seeds"),
    "worst": ("worst", "each seed's worst combination, mean over seeds"),
    "full": ("full", "all modalities present, mean over seeds"),
    "expected": ("expected", "mean over combinations, weighted by the study's deployment odds"),
    "minus_reference": ("minus reference", "difference of what the search looked for"),
    "p_seeds_holm": ("p, seeds", "paired test over seeds, after Holm's correction"),
    "p_samples_holm": ("p, samples", "paired test over test samples, after Holm's correction"),
    "minus_defaults": (
        "minus defaults",
        "difference to the file's defaults, of the same block where there are some",
    ),
    "p_defaults_holm": (
        "p, defaults",
        "paired test over seeds against the file's defaults, after Holm's correction",
    ),
    "gap_to_dedicated": ("gap to dedicated", "how far behind one network for each combination; negative: ahead of it"),
    "worse_with_more": ("worse with more", "share of samples that get worse when a modality is added"),
}
INTERVALS = {"mean": ("low", "high")} | {
    name: (f"{name}_low", f"{name}_high") for name in ("iqm", "worst", "full", "expected")
}
SIGNED = ("minus_reference", "minus_defaults", "gap_to_dedicated")


@dataclass(frozen=True)
class Column:
    """A heading, whether its cells are numbers, and what it means."""

    label: str
    number: bool = False
    title: str = ""


@dataclass(frozen=True)
class Cell:
    """What stands in a cell: its text, the number it is sorted by, a second line, and where it leads."""

    text: str = NOTHING
    value: float | None = None
    note: str = ""
    link: str = ""
    code: bool = False


@dataclass(frozen=True)
class Table:
    """A table whose first column names the row.

    Attributes:
        order: the column that the rows come ordered by, and in which direction.
    """

    name: str
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    order: tuple[int, Literal["ascending", "descending"]] | None = None


def number(value: Any, signed: bool = False) -> str:
    """Four decimals, or four digits where that says more; nothing where there is no value."""
    if value is None or not math.isfinite(value):
        return NOTHING
    text = f"{value:{'+' if signed else ''}.4f}" if abs(value) < 100 else f"{value:{'+' if signed else ''}.1f}"
    return text.replace("-", "−")


def p_text(value: float) -> str:
    return NOTHING if not math.isfinite(value) else f"{value:.4f}" if value >= 0.0001 else f"{value:.0e}"


def interval_text(low: float, high: float) -> str:
    """Empty where there is no interval, as of one seed."""
    return f"{number(low)} to {number(high)}" if math.isfinite(low) and math.isfinite(high) else ""


def row_of(frame: pd.DataFrame, label: Any) -> dict[str, Any]:
    """A row of a frame, by the columns' names."""
    return {str(name): value for name, value in frame.loc[[label]].to_dict("records")[0].items()}


def value_cell(value: Any, note: str = "", signed: bool = False) -> Cell:
    if value is None or pd.isna(value):
        return Cell()
    return Cell(number(float(value), signed), float(value), note)


def trials_table(results: StudyResults, link: Callable[[str], str]) -> Table:
    """Every trial of the search: those with values first, best first, then the others by their number.

    Args:
        link: from a run's id to its page in MLflow.
    """
    runs, table = results.runs, results.table
    searched = [key for key in results.searched if key != BLOCK]
    values = _summaries(results, "val")
    known = {name for one in values.values() for name in one}
    objectives = [one["metric"].removeprefix("val/") for one in results.objectives]
    names = [*objectives, *(name for name in _summary_names(results) if name not in objectives and name in known)]
    points = table.drop_duplicates("run").set_index("run")[searched].to_dict("index")
    best = {trial: rank for rank, trial in enumerate(trial_values(results).index)}
    ranked = runs.assign(rank=[best.get(trial, len(best)) for trial in runs["trial"]]).sort_values(["rank", "trial"])
    columns = [Column("trial", number=True), Column("method"), Column("ended")]
    columns += [Column(name, number=True, title="on val, at the best epoch") for name in names]
    columns += [Column(key, number=pd.api.types.is_numeric_dtype(table[key])) for key in searched]
    columns += [Column("seconds", number=True), Column("MLflow run")]
    stopped = stopped_trials(results)
    rows = []
    for run_id, run in ranked.iterrows():
        ended = run["status"] if run["trial"] not in stopped else f"{run['status']} ({stopped[run['trial']]})"
        cells = [Cell(str(run["trial"]), run["trial"]), _text(run["method"]), _text(ended)]
        found = values.get(str(run_id), {})
        cells += [value_cell(found.get(name)) for name in names]
        cells += [_searched(points[str(run_id)][key]) for key in searched]
        cells += [_seconds(run["seconds"]), Cell(str(run_id), link=link(str(run_id)), code=True)]
        rows.append(tuple(cells))
    first = results.objectives[0]
    caption = (
        f"Every trial of the search ({len(rows)}), one seed each, values on val{_of_complete(results, 'val')}: first "
        f"those with values, best first by {first['metric']}"
    )
    return Table("trials", caption, tuple(columns), tuple(rows), (3, _direction(first["mode"])))


def confirm_runs_table(results: StudyResults, link: Callable[[str], str]) -> Table:
    """Every confirm run, by method, configuration and seed: what means and intervals are made of."""
    values = _summaries(results, "test")
    known = {name for one in values.values() for name in one}
    names = [name for name in _summary_names(results) if name in known]
    columns = [Column("method"), Column("configuration"), Column("seed", number=True), Column("ended")]
    columns += [Column(name, number=True, title="on test, at the epoch that was best on val") for name in names]
    columns += [Column("seconds", number=True), Column("MLflow run")]
    rows = []
    for run_id, run in results.runs.sort_values(["method", "config", "seed"], kind="stable").iterrows():
        found = values.get(str(run_id), {})
        cells = [_text(run["method"]), _text(run["config"]), Cell(str(run["seed"]), run["seed"]), _text(run["status"])]
        cells += [value_cell(found.get(name)) for name in names]
        rows.append((*cells, _seconds(run["seconds"]), Cell(str(run_id), link=link(str(run_id)), code=True)))
    caption = (
        f"Every confirm run ({len(rows)}), values on test{_of_complete(results, 'test')}: what every mean and interval "
        "of this page is made of"
    )
    return Table("confirm-runs", caption, tuple(columns), tuple(rows))


def configurations_table(comparison: Comparison) -> Table:
    """One row per configuration: what a comparison says of it as a whole."""
    summary = comparison.summary
    shown = [name for name in COLUMNS if name in summary and summary[name].notna().any()]
    titles = {WITHOUT: ("without", WITHOUT_TITLE), SHAPLEY: ("Shapley,", SHAPLEY_TITLE)}
    modalities = [
        (f"{prefix}{name}", f"{words} {name}", title)
        for prefix, (words, title) in titles.items()
        for name in comparison.combinations.modalities
        if f"{prefix}{name}" in summary and summary[f"{prefix}{name}"].notna().any()
    ]
    columns = [Column("configuration"), Column("trial", number=True), Column("seeds", number=True)]
    columns += [Column(COLUMNS[name][0], number=True, title=COLUMNS[name][1]) for name in shown]
    columns += [Column(label, number=True, title=title) for _, label, title in modalities]
    rows = []
    for label in summary.index:
        row = row_of(summary, label)
        reference = ", the reference" if label == comparison.reference else ""
        cells = [Cell(f"{label}{reference}"), _trial(row["trial"]), Cell(str(row["seeds"]), float(row["seeds"]))]
        for name in shown:
            if name.startswith("p_"):
                value = float(row[name])
                cells.append(Cell(p_text(value), value) if math.isfinite(value) else Cell())
            else:
                note = interval_text(*(row[end] for end in INTERVALS[name])) if name in INTERVALS else ""
                cells.append(value_cell(row[name], note, signed=name in SIGNED))
        for name, _, _ in modalities:
            ends = row.get(f"{name}_low", math.nan), row.get(f"{name}_high", math.nan)
            cells.append(value_cell(row[name], interval_text(*ends), signed=True))
        rows.append(tuple(cells))
    on = f", on {comparison.samples_text}" if comparison.samples_text else ""
    caption = (
        f"{counted(len(rows), 'configuration')} on {comparison.split}: {comparison.metric} over "
        f"{comparison.combinations_text} combinations{on} ({better_end(comparison.mode)}), best {comparison.by} first; "
        f"{_certainty(comparison)}. "
        f"Reference: {comparison.reference}"
    )
    order = (3 + shown.index(comparison.by), _direction(comparison.mode))
    return Table("configurations", caption, tuple(columns), tuple(rows), order)


def combinations_table(comparison: Comparison) -> Table:
    """One row per combination, one column per configuration."""
    records = comparison.by_combination[["label", "combination", "mean", "low", "high"]].to_dict("records")
    found = {
        (one["label"], one["combination"]): value_cell(one["mean"], interval_text(one["low"], one["high"]))
        for one in records
    }
    labels = [str(label) for label in comparison.summary.index]
    columns = [
        Column("combination"),
        Column("modalities", number=True),
        *(Column(label, number=True) for label in labels),
    ]
    rows = []
    for name, size in zip(comparison.combinations.names, comparison.combinations.sizes.tolist(), strict=True):
        cells = (found.get((label, name), Cell()) for label in labels)
        rows.append((Cell(name), Cell(str(size), size), *cells))
    caption = (
        f"Each combination on {comparison.split}: {comparison.metric} ({better_end(comparison.mode)}); "
        f"{_certainty(comparison)}"
    )
    return Table("combinations", caption, tuple(columns), tuple(rows), (1, "ascending"))


def failures_table(runs: pd.DataFrame, messages: dict[str, str], link: Callable[[str], str]) -> Table:
    """Runs that failed, and why.

    Args:
        messages: the first line of their errors, by the run's id, as far as they were read.
    """
    columns = ("trial", "method", "stage", "reason", "message", "MLflow run")
    rows = tuple(
        (
            _trial(run["trial"]),
            _text(run["method"]),
            _text(run["stage"]),
            _text(run["status"]),
            Cell(messages.get(str(run_id)) or NOTHING),
            Cell(str(run_id), link=link(str(run_id)), code=True),
        )
        for run_id, run in runs.sort_values(["stage", "trial"], kind="stable").iterrows()
    )
    caption = f"The {len(rows)} runs that failed" if len(rows) > 1 else "The run that failed"
    return Table("failures", caption, tuple(Column(name, number=name == "trial") for name in columns), rows)


def _summary_names(results: StudyResults) -> list[str]:
    return [summary_metric(results.main_metric, summary) for summary in SUMMARIES]


def _summaries(results: StudyResults, split: str) -> dict[str, dict[str, float]]:
    """By run and metric, those that are no combination's."""
    table = results.table
    rows = table[(table["split"] == split) & table["combination"].isna()]
    values: dict[str, dict[str, float]] = defaultdict(dict)
    for run, metric, value in rows[["run", "metric", "value"]].itertuples(index=False):
        values[run][metric] = value
    return values


def _of_complete(results: StudyResults, split: str) -> str:
    """Of which samples summaries are, where some lack modalities."""
    words = complete_words(results, split)
    return f", of {words}" if words else ""


def _direction(mode: Direction) -> Literal["ascending", "descending"]:
    return "ascending" if mode is Direction.MIN else "descending"


def _certainty(comparison: Comparison) -> str:
    if all(len(entry.seeds) == 1 for entry in comparison.entries):
        return "one seed each, so that there is no interval"
    return "means over seeds, below them 95 % intervals over seeds"


def _text(value: Any) -> Cell:
    return Cell() if value is None or pd.isna(value) else Cell(str(value))


def _trial(value: Any) -> Cell:
    """The file's defaults have no trial where the search did not run them."""
    return Cell() if pd.isna(value) or value < 0 else Cell(str(int(value)), float(value))


def _searched(value: Any) -> Cell:
    if value is None or pd.isna(value):
        return Cell()
    if isinstance(value, bool) or not isinstance(value, int | float):
        return Cell(str(value))
    text = value_text(value)
    return Cell(text.replace("-", "−", 1) if value < 0 else text, float(value))


def _seconds(value: float) -> Cell:
    return Cell() if pd.isna(value) else Cell(f"{value:.1f}", float(value))
