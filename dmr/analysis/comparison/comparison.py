"""Methods or studies side by side: how good each is, on all combinations and on each, and how sure that is."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import pandas as pd

from dmr.analysis.comparison.caveats import comparison_notes
from dmr.analysis.comparison.entries import Entries, find_entries
from dmr.analysis.comparison.entries import Entry as Entry
from dmr.analysis.comparison.paired_tests import sample_tests
from dmr.analysis.comparison.summary_tables import combination_frame, relations, summary_frame
from dmr.analysis.results.artifacts import Samples
from dmr.analysis.results.record_names import BLOCK, SHAPLEY, Tag
from dmr.analysis.results.study_results import StudyResults, trial_values
from dmr.analysis.statistics import Floats, shapley
from dmr.combinations import Combinations, deployment_weights
from dmr.direction import Direction


@dataclass(frozen=True)
class Comparison:
    """Entries compared.

    Attributes:
        split: `test` of confirm runs, or `val` of the search where a study was not confirmed.
        combinations: those evaluated, in words in `combinations_text`.
        reference: label of the entry that the tests are against.
        entries: best mean first.
        summary: one row per entry by its label, of the main metric. study, method, config, trial, seeds (how many);
            mean over seeds and combinations with its 95 % interval low, high; iqm, iqm_low, iqm_high; worst and full:
            means over seeds of the worst and of the full combination; expected (with deployment odds only).
            minus_reference: mean difference over the seeds in common, its interval minus_reference_low, _high, and of
            the test over seeds p_seeds, p_seeds_holm, smallest_p_seeds. samples_minus_reference: mean difference of
            the scores of test samples, and of the test over them p_samples, p_samples_holm, smallest_p_samples.
            minus_defaults: the same over seeds against the file's defaults, see `defaults_of`, with _low, _high,
            p_defaults, p_defaults_holm. gap_to_dedicated: how far behind the best `dedicated`. worse_with_more: share
            of samples that get worse when a modality is added. shapley_{modality}, where they are defined.
        by_combination: one row per entry and combination: label, combination, seeds, mean, low, high, iqm,
            minus_reference, p (over seeds), p_holm, p_samples, p_samples_holm, minus_defaults, minus_dedicated.
        deployment: the odds of the study file, where all studies have the same.
        notes: sentences that a reader has to know.
    """

    studies: tuple[str, ...]
    dataset: str
    metric: str
    mode: Direction
    split: Literal["test", "val"]
    combinations: Combinations
    combinations_text: str
    reference: str
    entries: tuple[Entry, ...]
    summary: pd.DataFrame
    by_combination: pd.DataFrame
    deployment: dict[str, float] | None
    notes: tuple[str, ...]

    def entry(self, label: str) -> Entry:
        """The entry of this label."""
        return next(one for one in self.entries if one.label == label)


def compare(
    results: Sequence[StudyResults],
    *,
    reference: str | None = None,
    samples: Callable[[str], Samples | None],
    method: str | None = None,
) -> Comparison:
    """Compare the configurations that studies confirmed; see `find_entries` where one was not.

    Tests over seeds are sign-flip tests (`paired_seeds`), and their null covers training. Tests over samples
    (`paired_permutation`; a sample's score is its mean over seeds and, in the summary, combinations) speak of the
    trained models at hand on samples like those of test. Holm's correction is over the other entries in the summary,
    and over the other entries times combinations in `by_combination`.

        >>> results = load_study(tracking_uri, "digits", stage=None)
        >>> found = compare([results], samples=samples_reader(tracking_uri))
        >>> found.reference
        'dmrnet best 1'

    Args:
        results: of each study, with the runs of all stages (`load_study(..., stage=None)`).
        reference: label of an entry; else the best configuration of `method`, else the first entry.
        samples: the scores of a run's test samples, see `dmr.analysis.results.artifacts.samples_reader`.
        method: `model.method` of the first study's file.

    Raises:
        ValueError: one line: studies that cannot be compared, no values, or no entry of this label.
    """
    _check_alike(results)
    first, found = results[0], find_entries(results)
    sign = first.main_mode.sign
    entries = tuple(sorted(found.entries, key=lambda entry: -sign * float(entry.values.mean())))
    reference_entry = _reference(entries, reference, first.study, method)
    related = relations(
        entries, reference_entry, first.main_mode, {one.study for one in results if BLOCK in one.searched}
    )
    tests = sample_tests(entries, reference_entry, found.combinations, samples) if found.split == "test" else {}
    odds, deployment_notes = _deployment(results)
    weights = None if odds is None else _weights(found.combinations, odds)
    values = _shapley_values(results, entries, found)
    return Comparison(
        studies=tuple(one.study for one in results),
        dataset=first.dataset,
        metric=first.main_metric,
        mode=first.main_mode,
        split=found.split,
        combinations=found.combinations,
        combinations_text=first.combinations,
        reference=reference_entry.label,
        entries=entries,
        summary=summary_frame(entries, related, tests, found.combinations, weights).join(values),
        by_combination=combination_frame(entries, related, tests, found.combinations),
        deployment=odds,
        notes=(
            *found.notes,
            *deployment_notes,
            *comparison_notes(entries, reference_entry, found, tests, first.main_metric, values),
        ),
    )


def chosen(search: StudyResults, entries: Sequence[Entry]) -> Entry:
    """Of these configurations, what the search put first on val. Not the best on test: to choose among many by test
    and then report its test value is to report luck as well.
    """
    ranks = {trial: rank for rank, trial in enumerate(trial_values(search).index)}
    return min(entries, key=lambda entry: ranks.get(entry.trial, len(ranks)))


def compared(
    both: StudyResults, search: StudyResults, samples: Callable[[str], Samples | None]
) -> tuple[Comparison | None, str]:
    """The comparison against what the search put first on val, or why there is none."""
    try:
        reference = chosen(search, find_entries([both]).entries).label
        return compare([both], reference=reference, samples=samples), ""
    except ValueError as error:  # no values yet
        return None, f"There is nothing to compare yet: {error}."


def _check_alike(results: Sequence[StudyResults]) -> None:
    """Raises:
    ValueError: a study comes twice, or differs in what has to be the same.
    """
    first = results[0]
    for number, other in enumerate(results[1:], start=1):
        if other.study in [one.study for one in results[:number]]:
            raise ValueError(f"{other.study}: given twice")
        for what, one, two in (
            ("data set", first.dataset, other.dataset),
            ("modalities", ", ".join(first.modalities), ", ".join(other.modalities)),
            ("main metric", first.main_metric, other.main_metric),
            ("combinations evaluated", first.combinations, other.combinations),
        ):
            if one != two:
                raise ValueError(f"{first.study} and {other.study} cannot be compared: {what}: {one}; {two}")


def _reference(entries: Sequence[Entry], label: str | None, study: str, method: str | None) -> Entry:
    """The entry of this label, else the best configuration of `method` in `study` (of the block of its name before
    others), as val chose it, else the first entry.
    """
    if label is not None:
        named = [entry for entry in entries if entry.label == label]
        if not named:
            raise ValueError(f"reference {label!r}: the entries are {', '.join(entry.label for entry in entries)}")
        return named[0]
    short = None if method is None else method.rpartition(":")[2]
    own = [entry for entry in entries if entry.study == study and entry.model == method]
    own = [entry for entry in own if entry.method in (method, short)] or own
    own = [entry for entry in own if entry.is_best] or own
    return (own or list(entries))[0]


def _deployment(results: Sequence[StudyResults]) -> tuple[dict[str, float] | None, tuple[str, ...]]:
    """The odds where all studies have the same, and a note where they have not."""
    tags = {one.tags.get(Tag.DEPLOYMENT) for one in results}
    if len(tags) > 1:
        return None, ("the studies have different deployment odds: expected values are left out",)
    (tag,) = tags
    return (None if tag is None else dict(json.loads(tag))), ()


def _weights(combinations: Combinations, odds: dict[str, float]) -> Floats | None:
    """(C,) how likely each of these combinations is met, given that one of them is; None where none can be."""
    try:
        return deployment_weights(combinations, odds)
    except ValueError:
        return None


def _shapley_values(results: Sequence[StudyResults], entries: Sequence[Entry], found: Entries) -> pd.DataFrame:
    """One row per entry, one column per `shapley_{modality}`; no columns where they are not defined for every study."""
    empty = {}
    for one in results:
        tag = json.loads(one.tags.get(Tag.WITHOUT_MODALITIES, "{}"))
        if found.split in tag:
            empty[one.study] = float(tag[found.split])
    if len(empty) < len(results) or not found.combinations.complete:
        return pd.DataFrame(index=[entry.label for entry in entries])
    rows = {e.label: shapley(e.values.mean(0), found.combinations, empty[e.study]) for e in entries}
    return pd.DataFrame.from_dict(rows, orient="index").add_prefix(SHAPLEY)
