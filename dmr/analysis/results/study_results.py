"""A study as it was read from MLflow, and the usual questions to it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TypedDict

import numpy as np
import pandas as pd

from dmr.analysis.results.record_names import (
    DEFAULTS,
    STOPPED_EARLY,
    SUMMARIES,
    Tag,
    config_names,
    counted,
    deleted_run,
    summary_metric,
)
from dmr.combinations import all_combinations, complete_metric
from dmr.direction import Direction


class Objective(TypedDict):
    """What a search looks for: a metric such as `val/accuracy_mean`, and which way it is better."""

    metric: str
    mode: Direction


@dataclass(frozen=True)
class StudyResults:
    """A study as MLflow has it.

    Attributes:
        objectives: the first one orders trials.
        searched: dotted keys, each a column of the table.
        main_metric: the metric every combination has a value of, and `main_mode` which way it is better.
        combinations: in words, how many of all combinations were evaluated.
        tags: of the study's own run.
        runs: one row per run by its id: trial, stage, status, method, config (of a confirm run: `best 1`, `defaults`,
            ...; of the search's trial with the file's defaults `defaults`), seed, seconds, NaN until it ends, and
            model, the value of `model.method`.
        table: tidy, one row per (run, split, metric, combination). Summaries over combinations, such as
            `accuracy_mean`, have no combination; a run without values has one row without split, metric, combination
            and value.
        stopped: how far each run got that was stopped early, by its id: `8 of 60 epochs`.
        deleted: names and ids of runs that are left out, since people have deleted them in MLflow.
    """

    study: str
    dataset: str
    modalities: tuple[str, ...]
    objectives: tuple[Objective, ...]
    searched: tuple[str, ...]
    main_metric: str
    main_mode: Direction
    combinations: str
    parent_run_id: str
    tags: dict[str, str]
    runs: pd.DataFrame
    table: pd.DataFrame
    stopped: Mapping[str, str] = field(default_factory=dict)
    deleted: tuple[tuple[str, str], ...] = ()

    def deleted_line(self) -> str:
        """What to say of the runs that are left out; empty where there is none."""
        if not self.deleted:
            return ""
        (name, run_id), more = self.deleted[0], len(self.deleted) - 1
        others = f", and {more} more" if more else ""
        return f"{self.study}: left out: {name}: {deleted_run(run_id, 'its run')}{others}"


def stage_of(results: StudyResults, stage: str) -> StudyResults:
    """The same study with the runs of one stage alone."""
    runs, table = results.runs, results.table
    return replace(results, runs=runs[runs["stage"] == stage], table=table[table["stage"] == stage])


def trial_values(results: StudyResults) -> pd.DataFrame:
    """Index trial, one column per objective: every trial that has them all, best first by the first objective."""
    table = results.table
    columns = {}
    for objective in results.objectives:
        split, metric = objective["metric"].split("/")
        rows = table[(table["split"] == split) & (table["metric"] == metric)]
        columns[objective["metric"]] = rows.set_index("trial")["value"]
    frame = pd.DataFrame(columns).dropna()
    first = results.objectives[0]
    return frame.sort_values(first["metric"], ascending=first["mode"] is Direction.MIN, kind="stable")


def combination_values(results: StudyResults, split: str = "val", complete: bool = False) -> pd.DataFrame:
    """The main metric: index trial, one column per combination in their order.

    Args:
        complete: of the samples that have all modalities, for what compares or averages combinations, where there are
            some; else each combination is of the samples that have all of it.
    """
    table = results.table
    metric = metric_compared(results, split) if complete else results.main_metric
    rows = table[(table["split"] == split) & (table["metric"] == metric) & table["combination"].notna()]
    values = rows.pivot(index="trial", columns="combination", values="value")
    return values[[name for name in all_combinations(results.modalities).names if name in values]]


def complete_samples(results: StudyResults, split: str) -> int | None:
    """How many samples of a split have all modalities; None where none of them lacks one."""
    counts: dict[str, int] = json.loads(results.tags.get(Tag.COMPLETE, "{}"))
    return counts.get(split)


def complete_words(results: StudyResults, split: str) -> str:
    """On which samples combinations are compared, where some lack modalities: `the 9 samples with all modalities`."""
    count = complete_samples(results, split)
    return f"the {counted(count, 'sample')} with all modalities" if count else ""


def metric_compared(results: StudyResults, split: str) -> str:
    """The name under which the main metric of combinations is kept for comparing them with each other."""
    return complete_metric(results.main_metric) if complete_samples(results, split) else results.main_metric


def redrawn(results: StudyResults) -> bool:
    """Whether each seed of the confirmation has data of its own, so that test samples are not those of other seeds."""
    return Tag.REDRAWN in results.tags


def tied_to_class(results: StudyResults) -> tuple[str, ...]:
    """The modalities that are missing more often in some classes, so that their worth cannot be told."""
    return tuple(json.loads(results.tags.get(Tag.TIED, "[]")))


def summary_values(results: StudyResults, split: str = "val") -> pd.DataFrame:
    """The main metric's summaries over combinations: index trial, columns such as `accuracy_mean`."""
    table = results.table
    names = [summary_metric(results.main_metric, summary) for summary in SUMMARIES]
    rows = table[(table["split"] == split) & table["metric"].isin(names) & table["combination"].isna()]
    frame = rows.pivot(index="trial", columns="metric", values="value")
    return frame[[name for name in names if name in frame]]


def default_trials(*stages: StudyResults | None) -> dict[str, int]:
    """The search's trial with the file's defaults, by method, as the runs' `config` tells."""
    found: dict[str, int] = {}
    for results in stages:
        if results is not None:
            named = [DEFAULTS in config_names(str(config)) for config in results.runs["config"]]
            runs = results.runs[np.array(named, dtype=bool)]
            pairs = zip(runs["method"].tolist(), runs["trial"].tolist(), strict=True)
            found |= {method: trial for method, trial in pairs if trial >= 0}  # −1: the search did not run them
    return found


def methods_of(results: StudyResults) -> pd.Series:
    """The method, or block of the search, of each trial: index trial."""
    return results.runs.groupby("trial")["method"].first()


def stopped_trials(results: StudyResults) -> dict[int, str]:
    """The trials that were stopped early, with how far each got: `8 of 60 epochs`. Their values are of fewer epochs
    than those of the others, so that they do not compare.
    """
    runs = results.runs[results.runs["status"].isin(STOPPED_EARLY)]
    return {trial: results.stopped.get(str(run), "stopped early") for run, trial in runs["trial"].items()}


def trial_labels(results: StudyResults) -> dict[int, str]:
    """What figures call each trial: `trial 3`, or `trial 3, hemis` where there are several methods; one that was
    stopped early with how far it got: `trial 7 (8 of 60 epochs)`.
    """
    methods, stopped = methods_of(results), stopped_trials(results)
    several = methods.nunique() > 1
    return {
        trial: (f"trial {trial}, {method}" if several else f"trial {trial}")
        + (f" ({stopped[trial]})" if trial in stopped else "")
        for trial, method in zip(methods.index.tolist(), methods.tolist(), strict=True)
    }


def value_text(value: object) -> str:
    """A searched value in three digits; empty where a trial does not have the key."""
    if value is None or value != value:
        return ""
    return f"{value:.3g}" if isinstance(value, float) else str(value)
