"""What searching gave, in sentences that claim no more than interval and test allow."""

from __future__ import annotations

import math
from collections.abc import Iterator

from dmr.analysis.comparison.comparison import Comparison
from dmr.analysis.comparison.entries import Entry, defaults_of
from dmr.analysis.comparison.paired_tests import common_seeds
from dmr.analysis.report.page_tables import p_text, row_of
from dmr.analysis.report.words import difference_of, names_text, with_interval
from dmr.analysis.results.record_names import BLOCK, counted
from dmr.analysis.results.study_results import StudyResults
from dmr.analysis.statistics import MAX_SEEDS_IN_FULL, SIGNIFICANCE, Interval
from dmr.direction import Direction


def searching(search: StudyResults, entry: Entry, comparison: Comparison, before: int | None) -> Iterator[str]:
    """Did searching pay, for the method it is about and for each other one?"""
    blocks = BLOCK in search.searched
    if not set(search.searched) - {BLOCK}:
        yield "Nothing was searched: the configuration is the study file's own."
        return
    yield from _paid_for(search, entry, comparison, before, blocks)
    if blocks:
        yield from _paid_for_others(search, entry, comparison)


def _paid_for(
    search: StudyResults, entry: Entry, comparison: Comparison, before: int | None, blocks: bool
) -> Iterator[str]:
    """Of the configuration the report is about."""
    of = f" for {entry.method}" if blocks else ""
    if entry.is_defaults and before is not None:
        yield "Whether searching paid is not known: what is better on val than the file's defaults is not confirmed."
        return
    if entry.is_defaults and (search.runs["method"] == entry.method).sum() < 2:
        yield f"Nothing was searched{of}: it had one trial, with the file's defaults."
        return
    if entry.is_defaults:
        yield f"Searching did not pay{of}: the file's defaults were the best of the search."
        return
    own = defaults_of(entry, comparison.entries, blocks)
    seeds = () if own is None else common_seeds(entry, own)
    if own is None or not seeds:
        yield "Whether searching paid is not known: the file's defaults were not confirmed with the same seeds."
        return
    row = row_of(comparison.summary, entry.label)
    interval, p_value = difference_of(row, "minus_defaults", len(seeds)), float(row["p_defaults"])
    over = counted(len(seeds), "paired seed")
    yield (
        f"Searching {paid(interval, p_value, comparison.mode)}{of}: against the file's defaults of {own.method} the "
        f"{comparison.by} changed by {with_interval(interval, signed=True)} over {over}"
        f"{_p_words(p_value, len(seeds))}."
    )


def _paid_for_others(search: StudyResults, entry: Entry, comparison: Comparison) -> Iterator[str]:
    """Of each other method whose best configuration and defaults are both confirmed, after Holm's correction."""
    verdicts: dict[str, list[str]] = {}
    for other in comparison.entries:
        if other.method == entry.method or not other.is_best:
            continue
        own = defaults_of(other, comparison.entries, True)
        if other.is_defaults:
            several = (search.runs["method"] == other.method).sum() > 1
            verdict = "did not pay (the file's defaults were its best)" if several else ""
        elif own is None or not common_seeds(other, own):
            verdict = ""
        else:
            row = row_of(comparison.summary, other.label)
            interval = difference_of(row, "minus_defaults", len(common_seeds(other, own)))
            verdict = paid(interval, float(row["p_defaults_holm"]), comparison.mode)
        if verdict:
            verdicts.setdefault(verdict, []).append(other.method)
    if verdicts:
        parts = "; ".join(f"for {names_text(names)} it {verdict}" for verdict, names in verdicts.items())
        yield f"Searching, of the other methods: {parts} (p after Holm's correction)."


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


def _smallest(seeds: int) -> float:
    """The smallest two-sided p that flipping the signs of so many differences can give."""
    return 2.0 ** (1 - seeds)


def _p_words(p_value: float, seeds: int) -> str:
    if not math.isfinite(p_value):
        return ""
    if seeds > MAX_SEEDS_IN_FULL:  # random signs
        return f"; test over seeds of this comparison alone p = {p_text(p_value)}"
    smallest = f"the smallest that {counted(seeds, 'seed')} can give is {p_text(_smallest(seeds))}"
    return f"; exact test over seeds of this comparison alone p = {p_text(p_value)}, {smallest}"


def _excludes_zero(interval: Interval) -> bool:
    return interval.low > 0 or interval.high < 0
