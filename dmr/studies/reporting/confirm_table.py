"""The table of a confirmation: how each configuration does on test, over its seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from rich import box
from rich.table import Table

from dmr.analysis.results.record_names import CONFIRM, SUMMARIES
from dmr.studies.stages.confirm_stage import NO_TRIAL, Configuration

if TYPE_CHECKING:
    from dmr.analysis.results.study_results import StudyResults
    from dmr.analysis.statistics import Interval


class ConfirmRow(NamedTuple):
    """A configuration's main metric on test.

    Attributes:
        levels: mean over its seeds and 95 % interval of each summary over combinations that is known, by name: the same
            as `dmr compare` has; empty where no seed has succeeded.
    """

    configuration: Configuration
    seeds: int
    levels: dict[str, Interval]

    def with_interval(self, name: str) -> str:
        """A summary with its interval, where there is one."""
        interval = self.interval(name)
        return f"{self.value(name)}{'' if interval == '-' else f' ({interval})'}"

    def value(self, name: str) -> str:
        return f"{self.levels[name].estimate:.4f}" if name in self.levels else "-"

    def interval(self, name: str) -> str:
        if name not in self.levels or self.levels[name].n < 2:
            return "-"
        return f"{self.levels[name].low:.4f}–{self.levels[name].high:.4f}"


class Confirmed(NamedTuple):
    """What a confirmation found.

    Attributes:
        by: the summary over combinations that the search looked for.
        combinations: how many of all combinations have values, in words.
        samples: where samples lack modalities, on which ones combinations are compared, in words.
        rows: one per configuration, best first by `by`.
    """

    by: str
    combinations: str
    samples: str
    rows: tuple[ConfirmRow, ...]

    @property
    def title(self) -> str:
        """What the rows are ordered by, and over what their numbers are."""
        on = f"; on {self.samples}" if self.samples else ""
        return f"over {self.combinations} combinations, best {self.by} first{on}"

    @property
    def headings(self) -> tuple[str, ...]:
        """Of the numbers of a row, first by what they are ordered."""
        return ("trial", "seeds", self.by, "95 % interval", *self._others())

    def texts(self, row: ConfirmRow) -> list[str]:
        """The numbers of a row."""
        trial = str(row.configuration.trial) if row.configuration.trial != NO_TRIAL else "-"
        others = (row.value(name) for name in self._others())
        return [trial, str(row.seeds), row.value(self.by), row.interval(self.by), *others]

    def _others(self) -> list[str]:
        odds = any(SUMMARIES[-1] in row.levels for row in self.rows)
        return [name for name in (SUMMARIES if odds else SUMMARIES[:-1]) if name != self.by]


def confirmed_rows(results: StudyResults, configurations: Sequence[Configuration], seeds: range) -> Confirmed:
    """A row per configuration.

    Args:
        seeds: those that count; others are of an earlier confirmation.
    """
    from dmr.analysis.comparison.comparison import found_measure
    from dmr.analysis.comparison.entries import covered_words
    from dmr.analysis.results.study_results import complete_words, stage_of

    confirm = stage_of(results, CONFIRM)
    runs, table = confirm.runs, confirm.table
    confirm = replace(confirm, runs=runs[runs["seed"].isin(seeds)], table=table[table["seed"].isin(seeds)])
    try:
        found, measure = found_measure(confirm)
    except ValueError:  # no run has succeeded
        rows = [ConfirmRow(one, 0, {}) for one in configurations]
        return Confirmed(SUMMARIES[0], results.combinations, "", tuple(rows))
    entries = {(entry.method, entry.trial): entry for entry in measure.best_first(found.entries)}
    order = {key: place for place, key in enumerate(entries)}
    rows = []
    samples = complete_words(results, "test")
    for one in sorted(configurations, key=lambda one: order.get((one.method, one.trial), len(order))):
        entry = entries.get((one.method, one.trial))
        rows.append(ConfirmRow(one, len(entry.seeds), measure.levels(entry)) if entry else ConfirmRow(one, 0, {}))
    return Confirmed(measure.name, covered_words(results, len(found.combinations)), samples, tuple(rows))


def confirm_table(results: StudyResults, found: Confirmed) -> Table:
    """The rows as a table for the screen."""
    title = f"{results.study}: confirmed on test, {results.main_metric} {found.title}"
    table = Table(
        title=title, title_justify="left", box=box.SIMPLE_HEAD, collapse_padding=True, pad_edge=False, show_edge=False
    )
    for column in ("method", "config"):
        table.add_column(column, overflow="fold", min_width=7)
    for column in found.headings:
        table.add_column(column, justify="right", no_wrap=True)
    for row in found.rows:
        table.add_row(row.configuration.method, row.configuration.name, *found.texts(row))
    return table
