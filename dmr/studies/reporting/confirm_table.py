"""The table of a confirmation: how each configuration does on test, over its seeds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from rich import box
from rich.table import Table

from dmr.studies.stages.confirm_stage import NO_TRIAL, Configuration

if TYPE_CHECKING:
    from dmr.analysis.results.study_results import StudyResults


class ConfirmRow(NamedTuple):
    """A configuration's main metric on test.

    Attributes:
        low, high: the ends of the 95 % interval of the mean over its seeds, None of fewer than two.
        worst, full: means over its seeds as well; None where no seed has succeeded.
    """

    configuration: Configuration
    seeds: int
    mean: float | None
    low: float | None
    high: float | None
    worst: float | None
    full: float | None

    def mean_text(self) -> str:
        """The mean with its interval, where there is one."""
        interval = "" if self.low is None else f" ({self.low:.4f}–{self.high:.4f})"
        return f"{self.mean:.4f}{interval}"

    def texts(self) -> list[str]:
        """Of trial, seeds, mean, interval, worst, full."""
        trial = str(self.configuration.trial) if self.configuration.trial != NO_TRIAL else "-"
        interval = "-" if self.low is None else f"{self.low:.4f}–{self.high:.4f}"
        mean, worst, full = ("-" if x is None else f"{x:.4f}" for x in (self.mean, self.worst, self.full))
        return [trial, str(self.seeds), mean, interval, worst, full]


NUMBERS = ("trial", "seeds", "mean", "95 % interval", "worst", "full")


def confirm_rows(results: StudyResults, configurations: Sequence[Configuration], seeds: range) -> list[ConfirmRow]:
    """A row per configuration.

    Args:
        seeds: those that count; others are of an earlier confirmation.
    """
    from dmr.analysis.results.record_names import summary_metric
    from dmr.analysis.statistics import mean_interval

    rows = results.table
    tested = rows[(rows["split"] == "test") & rows["combination"].isna() & rows["seed"].isin(seeds)]
    found = []
    for one in configurations:
        test = tested[(tested["method"] == one.method) & (tested["trial"] == one.trial)]
        summaries = [summary_metric(results.main_metric, summary) for summary in ("mean", "worst", "full")]
        values = [test.loc[test["metric"] == name, "value"].to_numpy() for name in summaries]
        mean, worst, full = (float(value.mean()) if len(value) else None for value in values)
        many = len(values[0]) > 1
        interval = mean_interval(values[0]) if many else None
        low, high = (interval.low, interval.high) if interval is not None else (None, None)
        found.append(ConfirmRow(one, len(values[0]), mean, low, high, worst, full))
    return found


def confirm_table(results: StudyResults, configurations: Sequence[Configuration], seeds: range) -> Table:
    """The rows as a table for the screen."""
    title = f"{results.study}: confirmed on test, {results.main_metric} over {results.combinations} combinations"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, collapse_padding=True, pad_edge=False)
    for column in ("method", "config"):
        table.add_column(column, overflow="fold", min_width=9)
    for column in NUMBERS:
        table.add_column(column, justify="right", no_wrap=True)
    for row in confirm_rows(results, configurations, seeds):
        table.add_row(row.configuration.method, row.configuration.name, *row.texts())
    return table
