"""Methods over several data sets: how good each is on each, its rank, and how often it beats each other one.

Letters: D data sets, K methods, S seeds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import pandas as pd

from dmr.analysis.comparison.comparison import best_on_val, chosen, found_measure
from dmr.analysis.comparison.entries import Entry, covered_words
from dmr.analysis.comparison.measure import MEAN, Measure
from dmr.analysis.comparison.paired_tests import SEED, paired_interval
from dmr.analysis.order_statistics import mean_ranks, probabilities_of_improvement
from dmr.analysis.results.record_names import SEARCH, SUMMARIES
from dmr.analysis.results.study_results import StudyResults, stage_of
from dmr.analysis.statistics import Floats, Interval, mean_interval
from dmr.direction import Direction

Outcome = Literal["win", "tie", "loss"]


class DataSet(NamedTuple):
    """A study, and the configuration that stands for each of its methods; the measure is what its search looked for."""

    study: str
    dataset: str
    metric: str
    combinations: str
    best: dict[str, Entry]
    measure: Measure
    notes: tuple[str, ...]

    def values(self, method: str, summary: str) -> Floats:
        """(S,) of a method, a summary over combinations."""
        return replace(self.measure, name=summary).of(self.best[method])

    def better(self, method: str, summary: str) -> Floats:
        """The same, turned so that more is better."""
        return self.measure.mode.sign * self.values(method, summary)


@dataclass(frozen=True)
class Across:
    """Methods compared over data sets, each by its own metric. All frames have a column `summary`: of what over
    combinations they are.

    Attributes:
        summaries: those that are known everywhere, `by` first: what all searches looked for, else the mean.
        methods: those in all studies, best mean rank first.
        reference: the one of them that figures and the screen compare with.
        levels: one row per summary, study and method of it: dataset, metric, config, trial, seeds, mean over seeds with
            its 95 % t interval low, high, and rank, among the methods in all studies.
        ranks: one row per summary and method: mean_rank over data sets with its bootstrap interval low, high; wins,
            ties and losses against all others on all data sets.
        pairs: one row per summary, method and other: wins, ties, losses over data sets, and the probability that a run
            of the method is better than one of the other, with its bootstrap interval low, high.
        differences: one row per summary, study, method and other: difference, the mean over the seeds that both have,
            with its t interval low, high, and outcome: a win or a loss only where that excludes 0.
        notes: sentences that a reader has to know.
    """

    data_sets: tuple[DataSet, ...]
    summaries: tuple[str, ...]
    methods: tuple[str, ...]
    reference: str
    levels: pd.DataFrame
    ranks: pd.DataFrame
    pairs: pd.DataFrame
    differences: pd.DataFrame
    notes: tuple[str, ...]

    @property
    def by(self) -> str:
        """The summary by which methods are ordered."""
        return self.summaries[0]


def across(results: Sequence[StudyResults], reference: str | None = None) -> Across:
    """Compare the methods of confirmed studies of different data sets. Of each method, or block, what its search put
    first on val stands for it.

    Args:
        results: of each study, with the runs of all stages.
        reference: a method; else what the search of the first study put first on val, of those that all studies have.

    Raises:
        ValueError: one line: a study comes twice or is not confirmed, they have no method in common, or the reference
            is none of those.
    """
    studies = Counter(one.study for one in results)
    if twice := [study for study, count in studies.items() if count > 1]:
        raise ValueError(f"{twice[0]}: given twice")
    data_sets = tuple(map(_data_set, results))
    common = [method for method in data_sets[0].best if all(method in one.best for one in data_sets)]
    if not common:
        have = "; ".join(f"{one.study} has {', '.join(one.best)}" for one in data_sets)
        raise ValueError(f"no method is in all of these studies: {have}")
    if reference is None:
        reference = chosen(stage_of(results[0], SEARCH), [data_sets[0].best[method] for method in common]).method
    if reference not in common:
        raise ValueError(f"reference {reference!r}: the methods in all of these studies are {', '.join(common)}")
    summaries, summary_notes = _summaries(data_sets, common)
    differences = pd.DataFrame(_differences(data_sets, common, summaries), columns=DIFFERENCES)
    ranks, each = _ranks(data_sets, common, summaries, differences)
    order = ranks[ranks["summary"] == summaries[0]].sort_values("mean_rank", kind="stable")["method"]
    notes = (
        *(note for one in data_sets for note in one.notes),
        *_left_out(data_sets, common),
        *summary_notes,
        *_notes(data_sets, differences),
    )
    return Across(
        data_sets=data_sets,
        summaries=summaries,
        methods=tuple(order),
        reference=reference,
        levels=pd.DataFrame(_levels(data_sets, summaries)).merge(each, how="left"),
        ranks=ranks,
        pairs=pd.DataFrame(_pairs(data_sets, common, summaries, differences), columns=PAIRS),
        differences=differences,
        notes=notes,
    )


DIFFERENCES = ["summary", "study", "method", "other", "difference", "low", "high", "outcome"]
PAIRS = ["summary", "method", "other", "wins", "ties", "losses", "probability", "low", "high"]


def _data_set(results: StudyResults) -> DataSet:
    found, measure = found_measure(results)
    if found.split != "test":
        raise ValueError(f"{results.study}: nothing is confirmed; `dmr confirm {results.study}` gives values on test")
    best: dict[str, Entry] = {}
    for entry in best_on_val(stage_of(results, SEARCH), found.entries):
        best.setdefault(entry.method, entry)
    covered = covered_words(results, len(found.combinations))
    return DataSet(results.study, results.dataset, results.main_metric, covered, best, measure, found.notes)


def _summaries(data_sets: Sequence[DataSet], common: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Those that are known of all methods on all data sets, that by which methods are ordered first; and notes."""
    known = {one.study: set.intersection(*(set(one.measure.levels(one.best[m])) for m in common)) for one in data_sets}
    everywhere = [name for name in SUMMARIES if all(name in own for own in known.values())]
    notes = []
    for name in SUMMARIES:
        lacking = [study for study, own in known.items() if name not in own]
        if lacking and len(lacking) < len(known):
            notes.append(f"{name} is left out: {', '.join(lacking)} {'has' if len(lacking) == 1 else 'have'} none")
    wanted = {one.study: one.measure.name for one in data_sets}
    by = next(iter(wanted.values()))
    if len(set(wanted.values())) > 1 or by not in everywhere:
        each = ", ".join(f"{study} for the {name}" for study, name in wanted.items())
        notes.append(f"the searches looked for different summaries, {each}: methods are ordered by the mean")
        by = MEAN
    return (by, *(name for name in everywhere if name != by)), tuple(notes)


def _levels(data_sets: Sequence[DataSet], summaries: Sequence[str]) -> Iterator[dict[str, object]]:
    for name in summaries:
        for one in data_sets:
            for method, entry in one.best.items():
                level = mean_interval(one.values(method, name))
                yield {
                    "summary": name,
                    "study": one.study,
                    "dataset": one.dataset,
                    "metric": one.metric,
                    "method": method,
                    "config": entry.config,
                    "trial": entry.trial,
                    "seeds": level.n,
                    "mean": level.estimate,
                    "low": level.low,
                    "high": level.high,
                }


def _differences(
    data_sets: Sequence[DataSet], common: Sequence[str], summaries: Sequence[str]
) -> list[tuple[str, str, str, str, float, float, float, Outcome]]:
    rows = []
    for name in summaries:
        for one in data_sets:
            measure = replace(one.measure, name=name)
            for method in common:
                for other in common:
                    if other != method:
                        found = paired_interval(one.best[method], one.best[other], measure)
                        rows.append((name, one.study, method, other, *found[:3], _outcome(found, measure.mode)))
    return rows


def _outcome(found: Interval, mode: Direction) -> Outcome:
    """Nothing is better whose interval covers 0, or that has none."""
    if found.low > 0.0 or found.high < 0.0:
        return "win" if mode.better(found.estimate, 0.0) else "loss"
    return "tie"


def _ranks(
    data_sets: Sequence[DataSet], common: Sequence[str], summaries: Sequence[str], differences: pd.DataFrame
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The frame `ranks`, and of each summary, study and method the rank."""
    rows, each = [], []
    counts = _counts(differences, "summary", "method")
    for name in summaries:
        ranks, means = mean_ranks([[one.better(method, name) for method in common] for one in data_sets], SEED)
        for one, own in zip(data_sets, ranks.tolist(), strict=True):
            each += [(name, one.study, method, rank) for method, rank in zip(common, own, strict=True)]
        for method, mean in zip(common, means, strict=True):
            rows.append((name, method, *mean[:3], *counts(name, method)))
    columns = ["summary", "method", "mean_rank", "low", "high", "wins", "ties", "losses"]
    return pd.DataFrame(rows, columns=columns), pd.DataFrame(each, columns=["summary", "study", "method", "rank"])


def _pairs(
    data_sets: Sequence[DataSet], common: Sequence[str], summaries: Sequence[str], differences: pd.DataFrame
) -> list[tuple[object, ...]]:
    counts = _counts(differences, "summary", "method", "other")
    rows = []
    for name in summaries:
        values = [[one.better(method, name) for method in common] for one in data_sets]
        for (i, j), found in probabilities_of_improvement(values, SEED).items():
            rows.append((name, common[i], common[j], *counts(name, common[i], common[j]), *found[:3]))
    return rows


def _counts(differences: pd.DataFrame, *keys: str) -> Callable[..., list[int]]:
    """Wins, ties and losses, of values of these columns."""
    found = differences.groupby(list(keys))["outcome"].value_counts()
    return lambda *values: [int(found.get((*values, outcome), 0)) for outcome in ("win", "tie", "loss")]


def _left_out(data_sets: Sequence[DataSet], common: Sequence[str]) -> list[str]:
    """One line on the methods that some studies do not have."""
    where: dict[str, list[str]] = {}
    for one in data_sets:
        for method in one.best:
            if method not in common:
                where.setdefault(method, []).append(one.study)
    if not where:
        return []
    those = ", ".join(f"{method} ({', '.join(studies)})" for method, studies in where.items())
    return [f"not in all studies, and so not ranked: {those}"]


def _notes(data_sets: Sequence[DataSet], differences: pd.DataFrame) -> list[str]:
    seeds = [f"{one.study} {_range([len(entry.seeds) for entry in one.best.values()])}" for one in data_sets]
    notes = [f"seeds: {', '.join(seeds)}; intervals of means and of paired differences are 95 % t intervals over them"]
    if differences.empty:
        return notes
    notes.append(
        "won or lost is where the interval of the paired difference excludes 0, each by itself: of 100 differences "
        "between methods that are equally good, 5 do"
    )
    notes.append(
        "intervals of ranks and of P draw the runs of each method and data set anew (bootstrap): they speak of these "
        "data sets, and of few seeds they are too narrow"
    )
    if unknown := int(differences["low"].isna().sum()):
        notes.append(
            f"{unknown} of {len(differences)} differences have no interval, for want of 2 seeds in common: ties"
        )
    return notes


def _range(counts: Sequence[int]) -> str:
    low, high = min(counts), max(counts)
    return str(low) if low == high else f"{low} to {high}"
