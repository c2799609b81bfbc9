"""What the search looked for is what orders, is tested and has intervals; nothing is chosen by test."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from dmr.analysis.comparison.comparison import Comparison, compare, compared
from dmr.analysis.results.artifacts import Samples
from dmr.analysis.results.record_names import COLUMNS, RUN_COLUMNS
from dmr.analysis.results.study_results import StudyResults
from dmr.combinations import all_combinations
from dmr.direction import Direction

NAMES = all_combinations(("audio", "image")).names  # audio, image, both
SEEDS = 8
Values = Mapping[tuple[str, str, int], Sequence[float]]
# by method, configuration and trial: the means over seeds of audio, image and both
LEVELS: Values = {
    ("dmrnet", "best 1", 0): (0.5, 0.7, 0.9),  # mean 0.7, worst 0.5
    ("dropout", "best 1", 1): (0.6, 0.6, 0.75),  # mean 0.65, worst 0.6
    ("dedicated", "best 1", 2): (0.2, 0.9, 0.8),
    ("dedicated", "defaults", 3): (0.8, 0.9, 0.95),  # best on test by everything
}
VAL = {0: 0.7, 1: 0.9, 2: 0.8, 3: 0.1}  # the objective on val, by trial


def study(
    objective: str = "val/accuracy_mean",
    odds: dict[str, float] | None = None,
    metric: str = "accuracy",
    levels: Values = LEVELS,
    name: str = "s",
) -> StudyResults:
    draw = np.random.default_rng(0)
    runs: list[tuple[Any, ...]] = []
    rows: list[tuple[Any, ...]] = []
    for trial, value in VAL.items():
        start = (f"{trial}", trial, "search", "completed", "dmrnet")
        runs.append((*start, None, 0, 1.0, "dmrnet"))
        rows.append((*start, 0, "val", objective.removeprefix("val/"), None, value))
    for (method, config, trial), means in levels.items():
        for seed in range(1, SEEDS + 1):
            start = (f"{method}/{config}/{seed}", trial, "confirm", "completed", method)
            runs.append((*start, config, seed, 1.0, method))
            values = np.asarray(means) + draw.normal(0, 0.01, len(means))
            rows += [(*start, seed, "test", metric, one, value) for one, value in zip(NAMES, values, strict=False)]
    return StudyResults(
        study=name,
        dataset="d",
        modalities=("audio", "image"),
        objectives=({"metric": objective, "mode": Direction.MAX},),
        searched=(),
        main_metric=metric,
        main_mode=Direction.MAX,
        combinations="all 3",
        parent_run_id="p",
        tags={} if odds is None else {"deployment": json.dumps(odds)},
        runs=pd.DataFrame(runs, columns=list(RUN_COLUMNS)).set_index("run"),
        table=pd.DataFrame(rows, columns=list(COLUMNS)),
    )


def scores(run: str) -> Samples:
    """Of 40 test samples; those of dropout are better with both modalities alone."""
    better = np.where(np.arange(40) < 20, 1.0, 0.0) if run.startswith("dropout") else np.zeros(40)
    return np.stack([np.zeros(40), np.zeros(40), better]).astype(np.float32), NAMES


def no_samples(run: str) -> None:
    return None


def labels(found: Comparison) -> list[str]:
    return [entry.label for entry in found.entries]


def of_seeds(found: Comparison, label: str) -> np.ndarray:
    """(S, C)"""
    return found.entry(label).values


@pytest.mark.parametrize("by", ["mean", "worst", "full", "expected"])
def test_what_was_searched_for_orders_is_tested_and_has_intervals(by: str) -> None:
    odds = {"audio": 0.9, "image": 0.5}
    found = compare([study(f"val/accuracy_{by}", odds)], samples=no_samples)
    weights = np.array([0.9 * 0.5, 0.1 * 0.5, 0.9 * 0.5]) / 0.95
    own = {
        entry.label: {
            "mean": entry.values.mean(1),
            "worst": entry.values.min(1),
            "full": entry.values[:, 2],
            "expected": entry.values @ weights,
        }
        for entry in found.entries
    }
    assert (found.by, found.reference) == (by, "dropout best 1")
    assert labels(found) == sorted(own, key=lambda label: -own[label][by].mean())
    assert set(found.summary["by"]) == {by}
    for label, summaries in own.items():
        row = found.summary.loc[label]
        for name, values in summaries.items():
            interval = stats.ttest_1samp(values, 0.0).confidence_interval()
            prefix = "" if name == "mean" else f"{name}_"
            assert tuple(row[[name, f"{prefix}low", f"{prefix}high"]]) == pytest.approx((values.mean(), *interval))
        if label == found.reference:
            continue
        differences = summaries[by] - own[found.reference][by]
        interval = stats.ttest_1samp(differences, 0.0).confidence_interval()
        ends = ["minus_reference", "minus_reference_low", "minus_reference_high"]
        assert tuple(row[ends]) == pytest.approx((differences.mean(), *interval))
        exact = stats.permutation_test(
            (differences,), np.mean, permutation_type="samples", n_resamples=np.inf, vectorized=True
        )
        assert row["p_seeds"] == pytest.approx(exact.pvalue)
    difference = own["dedicated best 1"][by].mean() - own["dropout best 1"][by].mean()
    assert found.summary.at["dropout best 1", "gap_to_dedicated"] == pytest.approx(difference)
    defaults = own["dropout best 1"][by].mean() - own["dedicated defaults"][by].mean()
    assert found.summary.at["dropout best 1", "minus_defaults"] == pytest.approx(defaults)


@pytest.mark.parametrize(("by", "expected"), [("mean", 1 / 6), ("full", 0.5), ("expected", 0.5 * 0.45 / 0.95)])
def test_tests_over_samples_are_of_the_same_summary(by: str, expected: float) -> None:
    found = compare([study(f"val/accuracy_{by}", {"audio": 0.9, "image": 0.5})], samples=scores)
    assert found.summary.at["dmrnet best 1", "samples_minus_reference"] == pytest.approx(-expected)
    (note,) = [note for note in found.notes if note.startswith("p over samples")]
    assert "if several test samples come from one person, recording or image, p over samples is too small" in note


def test_a_single_sample_has_no_worst_combination() -> None:
    found = compare([study("val/accuracy_worst")], samples=scores)
    assert found.summary["p_samples"].isna().all()
    assert found.by_combination["p_samples"].notna().any()
    assert "the worst combination has no p over samples: it is the worst of all samples together" in found.notes


def test_odds_may_be_asked_for_afterwards() -> None:
    odds = {"audio": 0.99, "image": 0.8}
    weights = np.array([0.99 * 0.2, 0.01 * 0.8, 0.99 * 0.8]) / (1 - 0.01 * 0.2)
    for stored in (None, {"audio": 0.1}):
        found = compare([study(odds=stored)], samples=no_samples, deployment=odds)
        assert (found.by, found.deployment) == ("expected", odds)
        values = {label: float((of_seeds(found, label) @ weights).mean()) for label in labels(found)}
        assert found.summary["expected"].to_dict() == pytest.approx(values)
        assert labels(found) == sorted(values, key=lambda label: -values[label])
        difference = values["dmrnet best 1"] - values["dropout best 1"]
        assert found.summary.at["dmrnet best 1", "minus_reference"] == pytest.approx(difference)
    two = [study(odds={"audio": 0.5}), study("val/accuracy_worst", name="other")]
    assert compare(two, samples=no_samples, deployment=odds).by == "expected"
    only_audio = {key: values[:1] for key, values in LEVELS.items()}
    with pytest.raises(ValueError, match=r"^these odds leave no combination possible$"):
        compare([study(levels=only_audio)], samples=no_samples, deployment={"audio": 0.0})


def test_where_it_is_not_known_the_mean_stands_in_and_it_is_said() -> None:
    other = study("val/accuracy_worst", name="other")
    found = compare([study(), other], samples=no_samples)
    assert found.by == "mean"
    assert any("different objectives, val/accuracy_mean, val/accuracy_worst" in note for note in found.notes)
    no_full = {key: values[:2] for key, values in LEVELS.items()}
    for objective in ("val/accuracy_full", "val/accuracy_expected"):
        found = compare([study(objective, levels=no_full)], samples=no_samples)
        assert found.by == "mean"
        assert f"the search looked for {objective}, which is not known on test: all is by the mean" in found.notes
    found = compare([study("val/nll_worst")], samples=no_samples)
    assert found.by == "worst"
    note = "the search looked for val/nll_worst; what is compared is accuracy, by its worst"
    assert note in found.notes


def test_it_is_said_how_many_combinations_have_values() -> None:
    found = compare([study(levels={key: values[:2] for key, values in LEVELS.items()})], samples=no_samples)
    assert found.combinations_text == "2 of 3"
    assert "1 combination has no samples on test: it counts nowhere" in found.notes
    assert compare([study()], samples=no_samples).combinations_text == "all 3"


def test_nothing_is_chosen_by_test() -> None:
    """The reference, of a command or a report, and the `dedicated` of the gap are what val put first."""
    found = compare([study()], samples=no_samples)
    assert labels(found)[0] == "dedicated defaults"
    assert found.reference == "dropout best 1"
    reported, _ = compared(study(), no_samples)
    assert reported is not None
    assert reported.reference == found.reference
    own = of_seeds(found, "dropout best 1").mean()
    gap = of_seeds(found, "dedicated best 1").mean() - own
    assert found.summary.at["dropout best 1", "gap_to_dedicated"] == pytest.approx(gap)
    rows = found.by_combination.set_index(["label", "combination"])
    behind = of_seeds(found, "dropout best 1")[:, 0].mean() - of_seeds(found, "dedicated best 1")[:, 0].mean()
    assert rows.at[("dropout best 1", "audio"), "minus_dedicated"] == pytest.approx(behind)


def test_the_sample_note_names_what_is_tested_where_the_metric_has_no_single_sample() -> None:
    found = compare([study("val/miou_mean", metric="miou")], samples=scores)
    assert any(
        note.startswith("p over samples (of pixel accuracy: a single sample has no miou)") for note in found.notes
    )
    assert compare([replace(study(), main_metric="accuracy")], samples=scores).by == "mean"
