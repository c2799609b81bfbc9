"""What a study found, in sentences. They claim no more than the numbers do: what cannot be told from chance is said so.

Letters: S seeds, C combinations.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from dmr.analysis.comparison.comparison import Comparison, chosen
from dmr.analysis.comparison.entries import Entry, defaults_of
from dmr.analysis.comparison.paired_tests import common_seeds
from dmr.analysis.report.page_tables import interval_text, number, p_text, row_of
from dmr.analysis.results.record_names import BLOCK, SHAPLEY
from dmr.analysis.results.study_results import StudyResults, combination_values, trial_values
from dmr.analysis.statistics import MAX_SEEDS_IN_FULL, SIGNIFICANCE, Interval, holm, shapley
from dmr.combinations import SEPARATOR
from dmr.direction import Direction

TESTED, SEARCHED = "test", "val"


@dataclass(frozen=True)
class KeyFigure:
    """A number that stands out: what it is of, and its interval in words."""

    name: str
    value: str
    interval: str


@dataclass(frozen=True)
class Answer:
    """The first lines of a report.

    Attributes:
        headline: one sentence.
        figures: mean, worst and full of the configuration it is about.
        sentences: what else was found, and what is missing and how to get it.
    """

    headline: str
    figures: tuple[KeyFigure, ...]
    sentences: tuple[str, ...]


def answer(search: StudyResults, comparison: Comparison | None, default_method: str | None) -> Answer:
    """Of a confirmed study from its seeds on test; of another from its search, and that this is less.

    Args:
        default_method: `model.method` of the study file.
    """
    if comparison is not None and comparison.split == TESTED and comparison.entries:
        return _confirmed(search, comparison, default_method)
    return _unconfirmed(search)


def summary_intervals(entry: Entry, comparison: Comparison) -> dict[str, Interval]:
    """Mean, worst and full, where it is known, each with its interval over seeds."""
    return comparison.measure.levels(entry)


def combination_words(name: str, modalities: Sequence[str]) -> str:
    """`rgb-ir` in words: rgb and ir."""
    present = name.split(SEPARATOR)
    if len(present) == len(modalities):
        return "all modalities"
    return f"{present[0]} alone" if len(present) == 1 else f"{', '.join(present[:-1])} and {present[-1]}"


def _confirmed(search: StudyResults, comparison: Comparison, default_method: str | None) -> Answer:
    entry = chosen(search, comparison.entries)
    found = summary_intervals(entry, comparison)
    seeds = _count(len(entry.seeds), "seed")
    metric, count = comparison.metric, comparison.combinations_text
    before = _before(search, entry)
    which = "the configuration" if before is None else "of those confirmed the configuration"
    headline = (
        f"{entry.label}{_trial_words(entry)}, {which} that the search put first on val, reaches a mean "
        f"{metric} of {_with_interval(found['mean'])} on test over {count} combinations of modalities, "
        f"{number(found['worst'].estimate)} in its worst combination"
        + (f" and {number(found['full'].estimate)} with all modalities" if "full" in found else "")
        + f" ({seeds})."
    )
    figures = tuple(KeyFigure(name, number(one.estimate), _interval(one)) for name, one in found.items())
    sentences = [
        _weakest(entry, comparison),
        *_shapley(entry, comparison),
        *_searching(entry, comparison, before, BLOCK in search.searched),
    ]
    sentences += [*_expected(entry, comparison), *_others(entry, comparison, default_method)]
    if before is not None:
        sentences.insert(
            0,
            f"Trial {before} is better on val and has no values on test; `dmr confirm {search.study}` trains the best "
            "configurations that are not confirmed.",
        )
    return Answer(headline, figures, tuple(sentences))


def _before(search: StudyResults, entry: Entry) -> int | None:
    """The best trial of the search, None where it is this configuration or no better."""
    values = trial_values(search).iloc[:, 0]
    return None if values.empty or values.get(entry.trial) == values.iloc[0] else int(values.index[0])


def _weakest(entry: Entry, comparison: Comparison) -> str:
    means = entry.values.mean(axis=0)
    position = int(means.argmin() if comparison.mode is Direction.MAX else means.argmax())
    words = combination_words(comparison.combinations.names[position], comparison.combinations.modalities)
    return f"Its weakest combination is {words}: {comparison.metric} {number(means[position])}, mean over seeds."


def _shapley(entry: Entry, comparison: Comparison) -> Iterator[str]:
    """Which modality matters most and which least. The value without any modality shifts all Shapley values equally:
    where it is not known, only their order and distance are given.
    """
    row = row_of(comparison.summary, entry.label)
    known = {name.removeprefix(SHAPLEY): value for name, value in row.items() if name.startswith(SHAPLEY)}
    if not known and not comparison.combinations.complete:
        return
    values = pd.Series(known or shapley(entry.values.mean(axis=0), comparison.combinations, empty=0.0), dtype=float)
    if values.isna().any():
        return
    values = values.sort_values(ascending=comparison.mode is Direction.MIN, kind="stable")
    most, least = values.index[0], values.index[-1]
    if known:
        yield (
            f"The modality that matters most is {most} (Shapley value {number(values[most], signed=True)}), the least "
            f"{least} ({number(values[least], signed=True)})."
        )
    else:
        yield (
            f"The modality that matters most is {most}, the least {least}; their Shapley values are "
            f"{number(abs(values[most] - values[least]))} apart."
        )


def _searching(entry: Entry, comparison: Comparison, before: int | None, blocks: bool) -> Iterator[str]:
    """Did searching pay?"""
    if entry.is_defaults and before is not None:
        yield "Whether searching paid is not known: what is better on val than the file's defaults is not confirmed."
        return
    if entry.is_defaults:
        yield "Searching did not pay: the file's defaults were the best of the search."
        return
    own = defaults_of(entry, comparison.entries, blocks)
    seeds = () if own is None else common_seeds(entry, own)
    if own is None or not seeds:
        yield "Whether searching paid is not known: the file's defaults were not confirmed with the same seeds."
        return
    row = row_of(comparison.summary, entry.label)
    interval, p_value = _difference(row, "minus_defaults", len(seeds)), float(row["p_defaults"])
    yield (
        f"Searching {paid(interval, p_value, comparison.mode)}: against the file's defaults of {own.method} the "
        f"{comparison.by} changed by {_with_interval(interval, signed=True)} over {_count(len(seeds), 'paired seed')}"
        f"{_p_words(p_value, len(seeds))}."
    )


def paid(interval: Interval, p_value: float, mode: Direction) -> str:
    """The interval and the test over seeds have to agree; where the test's smallest p is above the level, all that can
    be said is that every seed agrees.
    """
    better = mode.better(interval.estimate, 0.0)
    if interval.n == 1:
        return "cannot be judged from one seed"
    if p_value <= SIGNIFICANCE and _excludes_zero(interval):
        return "paid" if better else "made it worse"
    if p_value <= _smallest(interval.n) and _excludes_zero(interval):
        return f"seems to {'pay' if better else 'make it worse'}, but so few seeds cannot prove it"
    return "made no difference that can be told from chance"


def _expected(entry: Entry, comparison: Comparison) -> Iterator[str]:
    value = row_of(comparison.summary, entry.label).get("expected", math.nan)
    if comparison.deployment and math.isfinite(value):
        odds = ", ".join(f"{name} {chance:g}" for name, chance in comparison.deployment.items())
        yield f"Under the deployment odds of the study ({odds}) the expected {comparison.metric} is {number(value)}."


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
        interval = _difference(row, "minus_reference", len(common_seeds(own, entry)))
        yield (
            f"{own.method}, the method the study file starts from, reaches {number(row[comparison.by])} with its best "
            f"configuration; the difference is {_with_interval(interval, signed=True)}."
        )


def _tests(rivals: Sequence[Entry], comparison: Comparison, sign: float) -> Iterator[str]:
    """Scores of samples are better when higher and, in segmentation, not of the metric: their sign is their own."""
    whole, labels = comparison.summary, [one.label for one in rivals]
    of = "" if comparison.metric == "accuracy" else "of pixel accuracy "
    for over, better, words in (
        (
            "samples",
            whole["samples_minus_reference"],
            f"{of}over test samples, which speaks of these trained networks alone",
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
                f"{_count(int(possible.notna().sum()), 'comparison')}, is {p_text(lowest)}."
            )
            continue
        told = known[known[f"p_{over}_holm"] < SIGNIFICANCE].index
        signs = (("worse", -1.0), ("better", 1.0))
        groups = [(whole["method"][told[side * better[told] > 0]].tolist(), how) for how, side in signs]
        parts = [f"{_names(names)} {how}" for names, how in groups if names]
        result = f"finds {' and '.join(parts)}" if parts else "cannot tell any of them from it"
        rest = len(known) - sum(len(names) for names, _ in groups)
        open_ones = f", and leaves {rest} open" if parts and rest else ""
        yield f"A paired test {words}, {result}{open_ones} (p < {SIGNIFICANCE:g} after Holm's correction)."


def _unconfirmed(search: StudyResults) -> Answer:
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
    metric = first["metric"].removeprefix("val/")
    sentences = [
        "This is the best of the search on val, from one seed: chosen among many, it is too good by an unknown amount, "
        "and it has no interval.",
        f"`dmr confirm {search.study}` trains the best configurations and the file's defaults again with fresh seeds "
        "and gives intervals on test; what searching was worth, and a fair comparison of methods, need it.",
    ]
    figures: tuple[KeyFigure, ...] = ()
    combinations = combination_values(search)
    if trial in combinations.index:
        row = combinations.loc[trial].dropna()
        worst = str(row.idxmin() if search.main_mode is Direction.MAX else row.idxmax())
        words = combination_words(worst, search.modalities)
        sentences.insert(0, f"Its worst combination is {words}: {search.main_metric} {number(row[worst])}.")
        found = {"mean": float(row.mean()), "worst": float(row[worst])}
        full = SEPARATOR.join(search.modalities)
        found |= {"full": float(row[full])} if full in row else {}
        figures = tuple(KeyFigure(name, number(one), "one seed, val") for name, one in found.items())
    headline = (
        f"Not confirmed yet: trial {trial} ({method}) is the best of {_count(len(values), 'trial')} with values, with "
        f"{metric} {number(values[first['metric']].iloc[0])} on val."
    )
    return Answer(headline, figures, tuple(sentences))


def status_words(runs: pd.DataFrame) -> str:
    """How many runs ended in which way, most first."""
    counts = sorted(runs["status"].value_counts().items(), key=lambda one: (-one[1], str(one[0])))
    return ", ".join(f"{count} {status}" for status, count in counts)


def _trial_words(entry: Entry) -> str:
    return f" (trial {entry.trial})" if entry.trial >= 0 else ""


def _difference(row: Mapping[str, Any], name: str, seeds: int) -> Interval:
    """A difference of a comparison's summary with its interval."""
    return Interval(float(row[name]), float(row[f"{name}_low"]), float(row[f"{name}_high"]), seeds)


def _count(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _names(labels: Sequence[str]) -> str:
    return labels[0] if len(labels) == 1 else f"{', '.join(labels[:-1])} and {labels[-1]}"


def _smallest(seeds: int) -> float:
    """The smallest two-sided p that flipping the signs of so many differences can give."""
    return 2.0 ** (1 - seeds)


def _p_words(p_value: float, seeds: int) -> str:
    if not math.isfinite(p_value):
        return ""
    if seeds > MAX_SEEDS_IN_FULL:  # random signs
        return f"; test over seeds of this comparison alone p = {p_text(p_value)}"
    smallest = f"the smallest that {_count(seeds, 'seed')} can give is {p_text(_smallest(seeds))}"
    return f"; exact test over seeds of this comparison alone p = {p_text(p_value)}, {smallest}"


def _excludes_zero(interval: Interval) -> bool:
    return interval.low > 0 or interval.high < 0


def _interval(interval: Interval) -> str:
    text = interval_text(interval.low, interval.high)
    return (
        f"95 % interval {text}, {_count(interval.n, 'seed')}" if text else f"{_count(interval.n, 'seed')}, no interval"
    )


def _with_interval(interval: Interval, signed: bool = False) -> str:
    ends = f"{number(interval.low, signed)} to {number(interval.high, signed)}"
    known = math.isfinite(interval.low) and math.isfinite(interval.high)
    return f"{number(interval.estimate, signed)} " + (f"(95 % interval {ends})" if known else "(no interval)")
