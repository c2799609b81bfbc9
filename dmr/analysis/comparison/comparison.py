"""Methods or studies side by side: how good each is, on all combinations and on each, and how sure that is."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import pandas as pd

from dmr.analysis.comparison.caveats import comparison_notes
from dmr.analysis.comparison.entries import Entries, covered_words, find_entries
from dmr.analysis.comparison.entries import Entry as Entry
from dmr.analysis.comparison.measure import MEAN, Measure, searched_measure
from dmr.analysis.comparison.paired_tests import sample_tests
from dmr.analysis.comparison.summary_tables import combination_frame, relations, summary_frame
from dmr.analysis.comparison.without_modality import without_frame
from dmr.analysis.results.artifacts import Samples
from dmr.analysis.results.record_names import BLOCK, SEARCH, SHAPLEY, Tag
from dmr.analysis.results.study_results import (
    StudyResults,
    complete_words,
    redrawn,
    stage_of,
    tied_to_class,
    trial_values,
)
from dmr.analysis.statistics import Floats, shapley
from dmr.combinations import Combinations, deployment_weights
from dmr.direction import Direction

DEDICATED = "dedicated"


@dataclass(frozen=True)
class Comparison:
    """Entries compared.

    Attributes:
        split: `test` of confirm runs, or `val` of the search where a study was not confirmed.
        combinations: those that have values, in words in `combinations_text`.
        samples_text: where samples lack modalities, on which ones combinations are compared, see `complete_words`.
        by: the summary over combinations that the search looked for: by it entries are ordered, compared and tested.
        reference: label of the entry that the tests are against.
        entries: best first.
        summary: one row per entry by its label, of the main metric. study, method, config, trial, seeds (how many), by;
            mean over seeds and combinations with its 95 % interval low, high; iqm, iqm_low, iqm_high; worst and full,
            means over seeds of the worst and of the full combination, and expected (with deployment odds only), each
            with its interval, as worst_low, worst_high. All that follows is of the summary `by`.
            minus_reference: mean difference over the seeds in common, its interval minus_reference_low, _high, and of
            the test over seeds p_seeds, p_seeds_holm, smallest_p_seeds. samples_minus_reference: mean difference of
            the scores of test samples, and of the test over them p_samples, p_samples_holm, smallest_p_samples.
            minus_defaults: the same over seeds against the file's defaults, see `defaults_of`, with _low, _high,
            p_defaults, p_defaults_holm. gap_to_dedicated: how far behind the `dedicated` that val chose.
            worse_with_more: share of samples that get worse when a modality is added. without_{modality}, what is lost
            without it, with _low and _high, and shapley_{modality}, where they are defined.
        by_combination: one row per entry and combination: label, combination, seeds, mean, low, high, iqm,
            minus_reference, p (over seeds), p_holm, p_samples, p_samples_holm, minus_defaults, minus_dedicated.
        deployment: the odds that were asked for, else those of the study file, where all studies have the same.
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
    by: str = MEAN
    samples_text: str = ""

    @property
    def measure(self) -> Measure:
        """The summary `by`, of any entry."""
        return Measure(self.by, self.mode, self.combinations, _weights(self.combinations, self.deployment))

    def entry(self, label: str) -> Entry:
        """The entry of this label."""
        return next(one for one in self.entries if one.label == label)


def compare(
    results: Sequence[StudyResults],
    *,
    reference: str | None = None,
    samples: Callable[[str], Samples | None],
    deployment: dict[str, float] | None = None,
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
        reference: label of an entry; else what the search of the first study put first on val, see `chosen`.
        samples: the scores of a run's test samples, see `dmr.analysis.results.artifacts.samples_reader`.
        deployment: odds in place of the studies' own; the expected value under them is then what orders and is tested.

    Raises:
        ValueError: one line: studies that cannot be compared, no values, no entry of this label, or odds that rule out
            every combination.
    """
    _check_alike(results)
    first, found = results[0], find_entries(results)
    odds, deployment_notes = (deployment, ()) if deployment is not None else _deployment(results)
    if deployment is not None:
        deployment_weights(found.combinations, deployment)  # raises where they rule out every combination
    weights = _weights(found.combinations, odds)
    measure, measure_notes = searched_measure(results, found, weights, asked=deployment is not None)
    entries = measure.best_first(found.entries)
    reference_entry = _reference(results, entries, reference)
    blocks = {one.study for one in results if BLOCK in one.searched}
    related = relations(entries, reference_entry, _dedicated(results, entries), measure, blocks)
    test_split, other_samples = found.split == "test", redrawn(first)
    tests = sample_tests(entries, reference_entry, measure, samples, other_samples) if test_split else {}
    values = _shapley_values(results, entries, found)
    return Comparison(
        studies=tuple(one.study for one in results),
        dataset=first.dataset,
        metric=first.main_metric,
        mode=first.main_mode,
        split=found.split,
        combinations=found.combinations,
        combinations_text=covered_words(first, len(found.combinations)),
        reference=reference_entry.label,
        entries=entries,
        summary=summary_frame(entries, related, tests)
        .join(without_frame(results, entries, found.combinations, first.main_mode))
        .join(values),
        by_combination=combination_frame(entries, related, tests, found.combinations),
        deployment=odds,
        notes=(
            *found.notes,
            *deployment_notes,
            *measure_notes,
            *comparison_notes(entries, reference_entry, found, tests, first.main_metric, other_samples),
            *_worth_notes(results, found, values),
        ),
        by=measure.name,
        samples_text=complete_words(first, found.split),
    )


def chosen(search: StudyResults, entries: Sequence[Entry]) -> Entry:
    """Of these configurations, what the search put first on val. Not the best on test: to choose among many by test
    and then report its test value is to report luck as well.
    """
    return best_on_val(search, entries)[0]


def best_on_val(search: StudyResults, entries: Sequence[Entry]) -> list[Entry]:
    """These configurations of a study in the order of its search."""
    ranks = {trial: rank for rank, trial in enumerate(trial_values(search).index)}
    return sorted(entries, key=lambda entry: (ranks.get(entry.trial, len(ranks)), not entry.is_best, entry.trial))


def compared(both: StudyResults, samples: Callable[[str], Samples | None]) -> tuple[Comparison | None, str]:
    """The comparison of one study, or why there is none."""
    try:
        return compare([both], samples=samples), ""
    except ValueError as error:  # no values yet
        return None, f"There is nothing to compare yet: {error}."


def found_measure(results: StudyResults) -> tuple[Entries, Measure]:
    """The entries of one study and the measure by which `compare` orders them.

    Raises:
        ValueError: it has no values.
    """
    found, (odds, _) = find_entries([results]), _deployment([results])
    return found, searched_measure([results], found, _weights(found.combinations, odds))[0]


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
            ("confirm.redraw", redrawn(first), redrawn(other)),
            ("combinations evaluated", first.combinations, other.combinations),
        ):
            if one != two:
                raise ValueError(f"{first.study} and {other.study} cannot be compared: {what}: {one}; {two}")


def _reference(results: Sequence[StudyResults], entries: Sequence[Entry], label: str | None) -> Entry:
    """The entry of this label, else what the search of the first study put first on val."""
    if label is None:
        own = [entry for entry in entries if entry.study == results[0].study]
        return chosen(stage_of(results[0], SEARCH), own or entries)
    named = [entry for entry in entries if entry.label == label]
    if not named:
        raise ValueError(f"reference {label!r}: the entries are {', '.join(entry.label for entry in entries)}")
    return named[0]


def _worth_notes(results: Sequence[StudyResults], found: Entries, values: pd.DataFrame) -> tuple[str, ...]:
    """Why there are no Shapley values, where the notes on samples that lack modalities do not say it."""
    comparable = not any(map(tied_to_class, results)) and all(entry.comparable for entry in found.entries)
    if found.split != "test" or not values.empty or not comparable:
        return ()
    if not found.combinations.complete:
        return ("Shapley values are left out: they need all combinations",)
    return ("Shapley values are left out: the value without any modality is not known; `dmr confirm NAME` records it",)


def _dedicated(results: Sequence[StudyResults], entries: Sequence[Entry]) -> Entry | None:
    """Of one network per combination, what the search of the first study that has it put first on val."""
    for one in results:
        own = [entry for entry in entries if entry.study == one.study and entry.model == DEDICATED]
        if own:
            return chosen(stage_of(one, SEARCH), own)
    return None


def _deployment(results: Sequence[StudyResults]) -> tuple[dict[str, float] | None, tuple[str, ...]]:
    """The odds where all studies have the same, and a note where they have not."""
    tags = {one.tags.get(Tag.DEPLOYMENT) for one in results}
    if len(tags) > 1:
        return None, ("the studies have different deployment odds: expected values are left out",)
    (tag,) = tags
    return (None if tag is None else dict(json.loads(tag))), ()


def _weights(combinations: Combinations, odds: dict[str, float] | None) -> Floats | None:
    """(C,) how likely each of these combinations is met, given that one of them is; None where none can be, or no odds
    are known.
    """
    if odds is None:
        return None
    try:
        return deployment_weights(combinations, odds)
    except ValueError:
        return None


def _shapley_values(results: Sequence[StudyResults], entries: Sequence[Entry], found: Entries) -> pd.DataFrame:
    """One row per entry, one column per `shapley_{modality}`; no columns where they are not defined for every study, as
    where no sample has all modalities, or one that is missing more often in some classes.
    """
    empty = {}
    for one in results:
        tag = json.loads(one.tags.get(Tag.WITHOUT_MODALITIES, "{}"))
        if found.split in tag:
            empty[one.study] = float(tag[found.split])
    if len(empty) < len(results) or not found.combinations.complete or any(map(tied_to_class, results)):
        return pd.DataFrame(index=[entry.label for entry in entries])
    rows = {e.label: shapley(e.values.mean(0), found.combinations, empty[e.study]) for e in entries}
    return pd.DataFrame.from_dict(rows, orient="index").add_prefix(SHAPLEY)
