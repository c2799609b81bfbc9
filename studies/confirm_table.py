"""The table of a confirmation: how each configuration does on test, over its seeds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table

from studies.confirmation import NO_TRIAL, Configuration

if TYPE_CHECKING:
    from analysis.results import StudyResults


def confirm_table(results: StudyResults, configurations: Sequence[Configuration], seeds: range) -> Table:
    """A row a configuration: how many seeds, and over them mean and 95 % bootstrap interval of the main metric, and the
    mean of its worst and of the full combination.

    Args:
        seeds: those that count; others are of an earlier confirmation.
    """
    from analysis.statistics import bootstrap_mean

    metric = results.main_metric
    title = f"{results.study}: confirmed on test, {metric} over {results.combinations} combinations"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, collapse_padding=True, pad_edge=False)
    for column in ("method", "config"):
        table.add_column(column, overflow="fold", min_width=9)
    for column in ("trial", "seeds", "mean", "95 % interval", "worst", "full"):
        table.add_column(column, justify="right", no_wrap=True)
    rows = results.table
    tested = rows[(rows["split"] == "test") & rows["combination"].isna() & rows["seed"].isin(seeds)]
    for one in configurations:
        test = tested[(tested["method"] == one.method) & (tested["trial"] == one.trial)]
        values = {name: test.loc[test["metric"] == f"{metric}_{name}", "value"] for name in ("mean", "worst", "full")}
        count = len(values["mean"])
        interval = "-"
        if count > 1:
            found = bootstrap_mean(values["mean"].to_numpy(), seeds.start)
            interval = f"{found.low:.4f}–{found.high:.4f}"
        shown = [f"{value.mean():.4f}" if len(value) else "-" for value in values.values()]
        trial = str(one.trial) if one.trial != NO_TRIAL else "-"
        table.add_row(one.method, one.name, trial, str(count), shown[0], interval, *shown[1:])
    return table
