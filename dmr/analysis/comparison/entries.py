"""What a comparison compares: the configurations that studies confirmed, or else the best trials of their searches.

Letters: S seeds, C combinations.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd

from dmr.analysis.results.record_names import BEST, CONFIRM, DEFAULTS, EARLIER, SEARCH, config_names, counted
from dmr.analysis.results.study_results import (
    StudyResults,
    complete_samples,
    complete_words,
    metric_compared,
    stage_of,
    stopped_trials,
    tied_to_class,
    trial_values,
)
from dmr.analysis.statistics import Floats
from dmr.combinations import SEPARATOR, Combinations, evaluated_combinations
from dmr.direction import Direction

Split = Literal["test", "val"]
OWN, COMPARED = "own", "compared"


@dataclass(frozen=True)
class Entry:
    """One configuration of one study.

    Attributes:
        method: as in tables, the block or the method; `model` is the method itself, `model.method`.
        config: `best 1`, `defaults`, ..., or `best 1, defaults` where the best one is the file's own.
        trial: of the search; −1 for the file's defaults where the search did not run them.
        label: what figures and tables call it, unique in the comparison.
        values: (S, C) of the main metric, rows in the order of `seeds`, columns in that of the combinations. Where
            samples lack modalities, of those that have all: what is averaged over combinations, or compares them.
        own_values: the same, each combination on all samples that have it.
        comparable: whether any sample has all modalities; else the combinations have no samples in common.
        run_ids: of the runs that the values come from, in the order of `seeds`.
    """

    study: str
    method: str
    config: str
    trial: int
    label: str
    model: str
    seeds: tuple[int, ...]
    values: Floats
    own_values: Floats
    comparable: bool
    run_ids: tuple[str, ...]

    def summaries(
        self, combinations: Combinations, mode: Direction, weights: Floats | None = None
    ) -> dict[str, Floats]:
        """(S,) each: mean and worst over combinations, full, and with the `weights` (C,) of deployment odds expected;
        worst and full are NaN where the combinations cannot be compared.
        """
        unknown = np.full(len(self.values), np.nan)
        worst = self.values.min(axis=1) if mode is Direction.MAX else self.values.max(axis=1)
        expected = {} if weights is None else {"expected": self.values @ weights}
        return {
            "mean": self.values.mean(axis=1),
            "worst": worst if self.comparable else unknown,
            "full": self.values[:, combinations.full] if self.comparable else unknown,
        } | expected

    @property
    def is_best(self) -> bool:
        """Whether the search put it first, of its block."""
        return BEST in config_names(self.config)

    @property
    def is_defaults(self) -> bool:
        """Whether these are the file's defaults."""
        return DEFAULTS in config_names(self.config)


class Entries(NamedTuple):
    """The entries of all studies, those combinations that have values, and sentences on what is left out."""

    entries: tuple[Entry, ...]
    split: Split
    combinations: Combinations
    notes: tuple[str, ...]


def find_entries(results: Sequence[StudyResults]) -> Entries:
    """The confirmed configurations, on test. Where a study has none, all studies give the best trial that the search
    found of each method, on val, since numbers of the two kinds do not compare.

    Raises:
        ValueError: a study has no values at all, or studies have values of different combinations.
    """
    unconfirmed = [one.study for one in results if _both_values(one, CONFIRM, "test").empty]
    stage: str = SEARCH if unconfirmed else CONFIRM
    split: Split = "val" if unconfirmed else "test"
    values = [_both_values(one, stage, split) for one in results]
    for one, own in zip(results, values, strict=True):
        if own.empty:
            raise ValueError(f"{one.study}: no trial has values")
        if tuple(own) != tuple(values[0]):
            raise ValueError(f"{results[0].study} and {one.study} have values of different combinations")
    entries, notes = [], [_unconfirmed_note(unconfirmed)] if unconfirmed else []
    for one, own in zip(results, values, strict=True):
        found = list(_searched(one, own) if unconfirmed else _confirmed(one, own))
        notes += [] if unconfirmed else _missing(one, found)
        entries += [replace(entry, label=f"{one.study}: {entry.label}") for entry in found] if results[1:] else found
    if not entries:
        raise ValueError(f"{results[0].study}: no configuration has values")
    evaluated = evaluated_combinations(results[0].modalities)
    members = [
        member for member, name in zip(evaluated.members, evaluated.names, strict=True) if name in values[0][OWN]
    ]
    if count := len(evaluated) - len(members):
        they = f"{counted(count, 'combination')} {'have' if count > 1 else 'has'}"
        notes.append(f"{they} no samples on {split}: {'they count' if count > 1 else 'it counts'} nowhere")
    notes += _complete_notes(results, split)
    return Entries(tuple(entries), split, Combinations(evaluated.modalities, tuple(members)), tuple(notes))


def covered_words(results: StudyResults, count: int) -> str:
    """How many of all combinations have values, in words: `all 7`, or `6 of 7` where one has no samples."""
    evaluated = len(evaluated_combinations(results.modalities))
    return results.combinations if count == evaluated else f"{count} of {2 ** len(results.modalities) - 1}"


def defaults_of(entry: Entry, entries: Sequence[Entry], blocks: bool) -> Entry | None:
    """The file's defaults that this entry is compared with: with `blocks` those of its own, else those of the study;
    None where they have no values, and for these themselves.
    """
    own = [one for one in entries if one.is_defaults and one.study == entry.study and not entry.is_defaults]
    alike = [one for one in own if one.method == entry.method]
    return next(iter(alike if alike or blocks else own), None)


def _unconfirmed_note(studies: Sequence[str]) -> str:
    return (
        f"{', '.join(studies)}: nothing is confirmed, so these are the best trials of the search, on val; "
        f"`dmr confirm {studies[0]}` gives values on test, intervals and tests"
    )


def _complete_notes(results: Sequence[StudyResults], split: Split) -> list[str]:
    """On which samples combinations are compared, where some lack modalities."""
    notes = []
    for one in results:
        count, tied = complete_samples(one, split), tied_to_class(one)
        if count:
            notes.append(
                f"{one.study}: on {split}, means, worst, differences and Shapley values are of "
                f"{complete_words(one, split)}; a combination's own row is of all samples that have it"
            )
        elif count == 0:
            notes.append(
                f"{one.study}: no sample of {split} has all modalities, so combinations are of different samples: the "
                "mean compares configurations, and nothing compares combinations"
            )
        if tied:
            notes.append(
                f"{one.study}: {', '.join(tied)} {'is' if len(tied) == 1 else 'are'} missing more often in some "
                "classes, so that being there is itself a hint: what a modality is worth is left out"
            )
    return notes


def _both_values(results: StudyResults, stage: str, split: Split) -> pd.DataFrame:
    """The main metric of the runs that have it: index run; below `OWN` one column per combination, on all samples that
    have it, and below `COMPARED` the same on the samples on which combinations are compared.
    """
    metrics = {OWN: results.main_metric, COMPARED: metric_compared(results, split)}
    frames = {which: _values(results, stage, split, metric) for which, metric in metrics.items()}
    return pd.concat(frames, axis=1, join="inner")


def _values(results: StudyResults, stage: str, split: Split, metric: str) -> pd.DataFrame:
    """A metric of the runs that have it: index run, one column per combination that any has, in order."""
    table = results.table
    rows = table[(table["stage"] == stage) & (table["split"] == split) & (table["metric"] == metric)]
    rows = rows[rows["combination"].notna()]
    found = rows.pivot(index="run", columns="combination", values="value").astype(float)
    names = evaluated_combinations(results.modalities).names
    return found[[name for name in names if name in found]].dropna()


def _confirmed(results: StudyResults, values: pd.DataFrame) -> Iterator[Entry]:
    runs = results.runs.loc[values.index]
    runs = runs[runs["config"] != EARLIER].sort_values("seed", kind="stable")
    for (method, config), own in runs.groupby(["method", "config"], sort=False):
        yield _entry(results, str(method), str(config), own, values)


def _searched(results: StudyResults, values: pd.DataFrame) -> Iterator[Entry]:
    """The best trial of each method by the first objective; of one that was stopped early the label says so."""
    runs = results.runs.loc[values.index].reset_index().set_index("trial")
    order = [trial for trial in trial_values(stage_of(results, SEARCH)).index if trial in runs.index]
    stopped = stopped_trials(stage_of(results, SEARCH))
    for method, own in runs.loc[order].groupby("method", sort=False):
        entry = _entry(results, str(method), BEST, own.head(1).reset_index().set_index("run"), values)
        early = f" ({stopped[entry.trial]})" if entry.trial in stopped else ""
        yield replace(entry, label=f"{entry.label}{early}")


def _entry(results: StudyResults, method: str, config: str, runs: pd.DataFrame, values: pd.DataFrame) -> Entry:
    return Entry(
        study=results.study,
        method=method,
        config=config,
        trial=int(runs["trial"].iloc[0]),
        label=f"{method} {config}",
        model=str(runs["model"].iloc[0]),
        seeds=tuple(int(seed) for seed in runs["seed"]),
        values=np.ascontiguousarray(values[COMPARED].loc[runs.index]),
        own_values=np.ascontiguousarray(values[OWN].loc[runs.index]),
        comparable=SEPARATOR.join(results.modalities) in values[OWN],
        run_ids=tuple(map(str, runs.index)),
    )


def _missing(results: StudyResults, found: Sequence[Entry]) -> list[str]:
    """What of a confirmation is not compared."""
    runs = results.runs[results.runs["stage"] == CONFIRM]
    earlier = runs["config"] == EARLIER
    used = {run for entry in found for run in entry.run_ids}
    lost = runs[~earlier & ~runs.index.isin(used)].sort_values(["method", "config", "seed"])
    notes = []
    if len(lost):
        parts = [
            f"{method} {config} seed {seed} {status}"
            for method, config, seed, status in lost[["method", "config", "seed", "status"]].itertuples(index=False)
        ]
        more = f" and {len(parts) - 5} more" if len(parts) > 5 else ""
        have = "has" if len(lost) == 1 else "have"
        notes.append(
            f"{results.study}: {len(lost)} of {counted(len(runs), 'confirm run')} {have} no values: "
            f"{', '.join(parts[:5])}{more}"
        )
    if earlier.any():
        are = "is" if earlier.sum() == 1 else "are"
        runs_text = counted(earlier.sum(), "confirm run")
        notes.append(f"{results.study}: {runs_text} of an earlier confirmation {are} left out")
    return notes
