"""What a reader of a comparison has to know, in sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dmr.analysis.comparison.entries import Entries, Entry
from dmr.analysis.comparison.paired_tests import SampleTests, common_seeds
from dmr.analysis.results.record_names import SAMPLED
from dmr.analysis.statistics import fewest_seeds

REDRAWN = (
    "each seed has data of its own (`confirm.redraw`): its split is in the intervals and in the tests over seeds, and "
    "there are no tests over samples"
)


def comparison_notes(
    entries: Sequence[Entry],
    reference: Entry,
    found: Entries,
    tests: Mapping[str, SampleTests],
    metric: str,
    redrawn: bool,
) -> tuple[str, ...]:
    """On seeds and tests; `redrawn`, each seed has data of its own."""
    notes = [_seeds_note(entries, found.split), *([REDRAWN] if redrawn and found.split == "test" else [])]
    others = [entry for entry in entries if entry is not reference]
    if others and found.split == "test":
        notes += _pairing_notes(others, reference)
        notes += [] if redrawn else _samples_notes(others, reference, tests, metric)
    return tuple(notes)


def _seeds_note(entries: Sequence[Entry], split: str) -> str:
    if split == "val":
        return "val, the search's own seed: the best of a search looks better than it is, and nothing is tested"
    counts = sorted({len(entry.seeds) for entry in entries})
    if counts[-1] == 1:
        return "one seed: no intervals and no tests over seeds; `dmr confirm NAME --seeds 10` gives them"
    text = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return f"{text} seeds: intervals are 95 % t intervals over them"


def _pairing_notes(others: Sequence[Entry], reference: Entry) -> list[str]:
    notes = []
    counts = {entry.label: len(common_seeds(entry, reference)) for entry in others}
    fewer = [f"{entry.label} {counts[entry.label]}" for entry in others if set(entry.seeds) != set(reference.seeds)]
    if fewer:
        notes.append(f"differences are over the seeds in common with {reference.label}: {', '.join(fewer)}")
    most, tests = max(counts.values()), sum(count > 1 for count in counts.values())
    if tests and most < fewest_seeds(tests):
        corrected = f", or {min(1.0, tests * 2 / 2**most):.2g} after Holm's correction for {tests} comparisons"
        notes.append(
            f"with {most} seeds in common no p over seeds is under {2 / 2**most:.3g}{corrected if tests > 1 else ''}: "
            f"such a test cannot tell entries apart, {fewest_seeds(tests)} seeds are the fewest that could"
        )
    return notes


def _samples_notes(
    others: Sequence[Entry], reference: Entry, tests: Mapping[str, SampleTests], metric: str
) -> list[str]:
    tested = [entry.label for entry in others if entry.label in tests and any(one.n for one in tests[entry.label].each)]
    untested = [entry.label for entry in others if entry.label not in tested]
    notes = []
    if tested:
        of = "" if metric == SAMPLED else f" (of pixel accuracy: a single sample has no {metric})"
        notes.append(
            f"p over samples{of} speaks of these trained models, not of training again, and takes samples as "
            "independent: if several test samples come from one person, recording or image, p over samples is too small"
        )
        if not any(tests[label].mean.n for label in tested):
            notes.append("the worst combination has no p over samples: it is the worst of all samples together")
    if reference.label not in tests:
        notes.append(f"no tests over samples: the results of single samples of {reference.label} are missing")
    elif untested:
        which = f"no test over samples for {', '.join(untested)}"
        notes.append(f"{which}: their results of single samples are missing or of other samples")
    return notes
