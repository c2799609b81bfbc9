"""What a study found, in sentences. They claim no more than the numbers do: what cannot be told from chance is said so.

Letters: S seeds, C combinations.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pandas as pd

from dmr.analysis.comparison.comparison import Comparison, chosen, compared
from dmr.analysis.comparison.entries import Entry
from dmr.analysis.comparison.paired_tests import common_seeds
from dmr.analysis.comparison.without_modality import losses
from dmr.analysis.report.page_tables import number, p_text, row_of
from dmr.analysis.report.searching import searching
from dmr.analysis.report.words import (
    combination_words,
    difference_of,
    duration,
    interval_words,
    names_text,
    status_words,
    trial_words,
    with_interval,
)
from dmr.analysis.results.record_names import CONFIRM, SEARCH, SHAPLEY, WITHOUT, counted
from dmr.analysis.results.study_results import (
    StudyResults,
    combination_values,
    complete_samples,
    stage_of,
    stopped_trials,
    tied_to_class,
    trial_values,
)
from dmr.analysis.statistics import SIGNIFICANCE, Interval, holm, mean_interval
from dmr.combinations import SEPARATOR
from dmr.direction import Direction

TESTED, SEARCHED = "test", "val"
OBJECTIVE_WORDS = {  # of the summary that was searched for
    "mean": "a mean",
    "worst": "in the worst combination of each seed a mean",
    "full": "with all modalities a mean",
    "expected": "an expected",
}
SUMMARY_WORDS = {  # of the others
    "mean": "a mean of {} over combinations",
    "worst": "{} in the worst combination of each seed",
    "full": "{} with all modalities",
    "expected": "{} expected in deployment",
}


@dataclass(frozen=True)
class KeyFigure:
    """A number that stands out: what it is of, and its interval in words."""

    name: str
    value: str
    interval: str


@dataclass(frozen=True)
class Answer:
    """The first lines of a report, what decides first: the best configuration by the objective that was searched for
    and how sure that is, what is lost without each modality, where it is weakest, what searching gave, what it cost.

    Attributes:
        headline: one sentence.
        figures: the summaries over combinations of the configuration it is about, that of the objective first.
        sentences: what else was found, and what is missing and how to get it.
    """

    headline: str
    figures: tuple[KeyFigure, ...]
    sentences: tuple[str, ...]


def answer(both: StudyResults, comparison: Comparison | None, default_method: str | None) -> Answer:
    """Of a confirmed study from its seeds on test; of another from its search, and that this is less.

    Args:
        both: the study with the runs of its search and of its confirmation.
        default_method: `model.method` of the study file.
    """
    search = stage_of(both, SEARCH)
    if comparison is not None and comparison.split == TESTED and comparison.entries:
        return _confirmed(search, comparison, default_method, _cost(both))
    return _unconfirmed(search, _cost(both))


def _cost(both: StudyResults) -> str:
    """How many runs there were, and how long they took together."""
    runs = both.runs
    parts = [counted(int((runs["stage"] == SEARCH).sum()), "trial")]
    if confirmed := int((runs["stage"] == CONFIRM).sum()):
        parts.append(counted(confirmed, "confirm run"))
    return f"It cost {' and '.join(parts)}, {duration(float(runs['seconds'].sum()))} of run time."


def _confirmed(search: StudyResults, comparison: Comparison, default_method: str | None, cost: str) -> Answer:
    entry = chosen(search, comparison.entries)
    found, by = comparison.measure.levels(entry), comparison.by
    seeds = counted(len(entry.seeds), "seed")
    metric, count = comparison.metric, comparison.combinations_text
    before = _before(search, entry)
    which = "the configuration" if before is None else "of those confirmed the configuration"
    others = [SUMMARY_WORDS[name].format(number(one.estimate)) for name, one in found.items() if name != by]
    samples = f", {comparison.samples_text}" if comparison.samples_text else ""
    headline = (
        f"{entry.label}{trial_words(entry)}, {which} that the search put first on val, reaches "
        f"{OBJECTIVE_WORDS[by]} {metric} of {with_interval(found[by])} on test over {count} combinations of "
        f"modalities{''.join(f', {text}' for text in others)} ({seeds}{samples})."
    )
    order = [by, *(name for name in found if name != by)]
    figures = tuple(KeyFigure(name, number(found[name].estimate), interval_words(found[name])) for name in order)
    sentences = [
        *_decisive(search, entry, comparison, before),
        cost,
        *_odds(comparison),
        *_shapley(entry, comparison),
        *_others(entry, comparison, default_method),
    ]
    if before is not None:
        sentences.insert(
            0,
            f"Trial {before} is better on val and has no values on test; `dmr confirm {search.study}` trains the best "
            "configurations that are not confirmed.",
        )
    return Answer(headline, figures, tuple(sentences))


def decisive(both: StudyResults, comparison: Comparison | None = None) -> tuple[str, ...]:
    """Of a confirmed study, in the words of its report: what is lost without each modality, where the best
    configuration is weakest, what searching gave and what it cost; nothing of a study that has no values on test.

    Args:
        comparison: of this study alone; else the usual one.
    """
    search = stage_of(both, SEARCH)
    if comparison is None:
        comparison, _ = compared(both, lambda run: None)
    if comparison is None or comparison.split != TESTED:
        return ()
    entry = chosen(search, comparison.entries)
    return (*_decisive(search, entry, comparison, _before(search, entry)), _cost(both), *_odds(comparison))


def _decisive(search: StudyResults, entry: Entry, comparison: Comparison, before: int | None) -> Iterator[str]:
    yield from _without(search, entry, comparison)
    yield from _weakest(entry, comparison)
    yield from searching(search, entry, comparison, before)


def _before(search: StudyResults, entry: Entry) -> int | None:
    """The best trial of the search, None where it is this configuration or no better."""
    values = trial_values(search).iloc[:, 0]
    return None if values.empty or values.get(entry.trial) == values.iloc[0] else int(values.index[0])


def _without(search: StudyResults, entry: Entry, comparison: Comparison) -> Iterator[str]:
    """What is lost without each modality, least first, or why that is not known."""
    row = row_of(comparison.summary, entry.label)
    known = {
        name: difference_of(row, f"{WITHOUT}{name}", len(entry.seeds))
        for name in comparison.combinations.modalities
        if f"{WITHOUT}{name}" in row
    }
    if not entry.comparable:
        yield f"What is lost without each modality is not known: no sample of {TESTED} has all modalities."
    elif tied := tied_to_class(search):
        yield (
            f"What is lost without each modality is left out: {names_text(tied)} {'is' if len(tied) == 1 else 'are'} "
            "missing more often in some classes, so that being there is itself a hint."
        )
    if not known:
        return
    order = sorted(known, key=lambda name: known[name].estimate)
    parts = ", ".join(f"{name} {with_interval(known[name], signed=True)}" for name in order)
    yield (
        f"What is lost without each modality, with all others present: {comparison.metric} of all less that without "
        f"it{'' if comparison.mode is Direction.MAX else ', turned so that more is worse'}: {parts}."
    )
    least = known[order[0]]
    if len(known) < len(comparison.combinations.modalities) or not math.isfinite(least.low):
        return
    by_seed = losses(entry, comparison.combinations, comparison.mode)
    equal = [name for name in order[1:] if mean_interval(by_seed[name] - by_seed[order[0]]).low <= 0]
    end = f"; the loss of {names_text(equal)} cannot be told from its own by these seeds" if equal else ""
    yield f"If one has to go, drop {order[0]}: {_drop_words(least)}{end}."


def _drop_words(lost: Interval) -> str:
    """What the interval of a loss allows to say."""
    if lost.low > 0:
        return f"its loss is the smallest, {number(lost.estimate)}"
    if lost.high < 0:
        return f"without it the others are better by {number(-lost.estimate)}"
    return "nothing is lost without it that could be told from chance"


def _weakest(entry: Entry, comparison: Comparison) -> Iterator[str]:
    if not entry.comparable:
        return
    means = entry.values.mean(axis=0)
    position = int(means.argmin() if comparison.mode is Direction.MAX else means.argmax())
    words = combination_words(comparison.combinations.names[position], comparison.combinations.modalities)
    on = f" on {comparison.samples_text}" if comparison.samples_text else ""
    yield f"Its weakest combination is {words}: {comparison.metric} {number(means[position])}{on}, mean over seeds."


def _shapley(entry: Entry, comparison: Comparison) -> Iterator[str]:
    """How the credit is shared, which is no answer to what can be dropped."""
    row = row_of(comparison.summary, entry.label)
    known = {name.removeprefix(SHAPLEY): value for name, value in row.items() if name.startswith(SHAPLEY)}
    values = pd.Series(known, dtype=float)
    if values.empty or values.isna().any():
        return
    values = values.sort_values(ascending=comparison.mode is Direction.MIN, kind="stable")
    parts = ", ".join(f"{name} {number(value, signed=True)}" for name, value in values.items())
    yield (
        f"Shapley values share the credit for what all modalities reach: {parts}. They do not say what can be dropped: "
        "of two modalities that say the same each has half the credit, and nothing is lost without one of them."
    )


def _odds(comparison: Comparison) -> Iterator[str]:
    if comparison.deployment and "expected" in comparison.summary:
        odds = ", ".join(f"{name} {chance:g}" for name, chance in comparison.deployment.items())
        yield f"The expected {comparison.metric} is under these deployment odds: {odds}."


def _others(entry: Entry, comparison: Comparison, default_method: str | None) -> Iterator[str]:
    """Did it beat the other methods? Each one by the configuration its own search put first."""
    rivals = [one for one in comparison.entries if one.method != entry.method and one.is_best]
    if not rivals:
        yield "No other method was confirmed beside it, so this study says nothing about baselines."
        return
    sign, measure = comparison.mode.sign, comparison.measure
    better = sum(sign * (measure.of(one).mean() - measure.of(entry).mean()) > 0 for one in rivals)
    if len(rivals) == 1:
        end = "better than" if better else "that is no better than"
        what = f"The other method, {rivals[0].method}, has a {comparison.by} on test"
        yield f"{what} {end} this, with its own best configuration."
    else:
        how = "all" if better == len(rivals) else "none" if better == 0 else str(better)
        yield (
            f"Of {len(rivals)} other methods, each with the configuration that its own search put first, {how} "
            f"{'has' if better == 1 else 'have'} a better {comparison.by} on test."
        )
    if comparison.reference != entry.label:
        return
    yield from _tests(rivals, comparison, sign)
    own = next((one for one in rivals if one.method == default_method), None)
    if own is not None:
        row = row_of(comparison.summary, own.label)
        interval = difference_of(row, "minus_reference", len(common_seeds(own, entry)))
        yield (
            f"{own.method}, the method the study file starts from, reaches {number(row[comparison.by])} with its best "
            f"configuration; the difference is {with_interval(interval, signed=True)}."
        )


def _tests(rivals: Sequence[Entry], comparison: Comparison, sign: float) -> Iterator[str]:
    """Scores of samples are better when higher and, in segmentation, not of the metric: their sign is their own."""
    whole, labels = comparison.summary, [one.label for one in rivals]
    of = "" if comparison.metric == "accuracy" else "of pixel accuracy "
    for over, better, words in (
        (
            "samples",
            whole["samples_minus_reference"],
            f"{of}over test samples, which speaks of these trained networks alone and takes samples as independent",
        ),
        ("seeds", sign * whole["minus_reference"], "over seeds, which also covers training"),
    ):
        known = whole.loc[labels][whole.loc[labels, f"p_{over}_holm"].notna()]
        if known.empty:
            continue
        possible = pd.Series(holm(whole[f"smallest_p_{over}"]), whole.index)  # if all had the smallest they can give
        lowest = possible[known.index].min()
        if lowest > SIGNIFICANCE:
            yield (
                f"A paired test {words}, cannot decide here: the smallest p it can give, after Holm's correction for "
                f"{counted(int(possible.notna().sum()), 'comparison')}, is {p_text(lowest)}."
            )
            continue
        told = known[known[f"p_{over}_holm"] <= SIGNIFICANCE].index
        signs = (("worse", -1.0), ("better", 1.0))
        groups = [(whole["method"][told[side * better[told] > 0]].tolist(), how) for how, side in signs]
        parts = [f"{names_text(names)} {how}" for names, how in groups if names]
        result = f"finds {' and '.join(parts)}" if parts else "cannot tell any of them from it"
        rest = len(known) - sum(len(names) for names, _ in groups)
        open_ones = f", and leaves {rest} open" if parts and rest else ""
        yield f"A paired test {words}, {result}{open_ones} (p ≤ {SIGNIFICANCE:g} after Holm's correction)."


def _unconfirmed(search: StudyResults, cost: str) -> Answer:
    values = trial_values(search)
    runs, first = search.runs, search.objectives[0]
    if values.empty:
        ends = status_words(runs) or "none yet"
        return Answer(
            "There is no result yet: no trial has values.",
            (),
            (
                f"Trials so far: {ends}.",
                f"`dmr status {search.study}` says how far the study is; `dmr resume {search.study}` goes on with it.",
            ),
        )
    trial = values.index[0]
    method = runs.loc[runs["trial"] == trial, "method"].iloc[0]
    metric, stopped = first["metric"].removeprefix("val/"), stopped_trials(search)
    early = f", {stopped[trial]}" if trial in stopped else ""
    sentences = [
        "This is the best of the search on val, from one seed: chosen among many, it is too good by an unknown amount, "
        "and it has no interval.",
        f"`dmr confirm {search.study}` trains the best configurations and the file's defaults again with fresh seeds "
        "and gives intervals on test; what searching was worth, and a fair comparison of methods, need it.",
    ]
    figures: tuple[KeyFigure, ...] = ()
    combinations = combination_values(search, complete=True)
    if trial in combinations.index and complete_samples(search, SEARCHED) != 0:
        row = combinations.loc[trial].dropna()
        worst = str(row.idxmin() if search.main_mode is Direction.MAX else row.idxmax())
        words = combination_words(worst, search.modalities)
        sentences.insert(0, f"Its worst combination is {words}: {search.main_metric} {number(row[worst])}.")
        found = {"mean": float(row.mean()), "worst": float(row[worst])}
        full = SEPARATOR.join(search.modalities)
        found |= {"full": float(row[full])} if full in row else {}
        figures = tuple(KeyFigure(name, number(one), "one seed, val") for name, one in found.items())
    sentences.append(cost)
    headline = (
        f"Not confirmed yet: trial {trial} ({method}{early}) is the best of {counted(len(values), 'trial')} with "
        f"values, with {metric} {number(values[first['metric']].iloc[0])} on val."
    )
    return Answer(headline, figures, tuple(sentences))
