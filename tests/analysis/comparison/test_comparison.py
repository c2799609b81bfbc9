"""Comparisons of studies in a real store, against numbers computed from the raw runs in another way."""

from __future__ import annotations

import io
import itertools
import json
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from mlflow import MlflowClient
from mlflow.entities import Metric, Param
from scipy import stats

from dmr.analysis.comparison.comparison import Comparison, compare
from dmr.analysis.results.artifacts import samples_reader
from dmr.analysis.results.load_study import load_study
from dmr.analysis.statistics import paired_permutation

SAMPLES = 12  # 2^12 swaps: all of them are tried
ODDS = {"rgb": 0.9, "ir": 0.5}
Study = Any  # of conftest
NewStudy = Callable[..., Study]


def confirm(
    study: Study,
    method: str,
    config: str,
    trial: int,
    seed: int,
    scores: npt.NDArray[np.float32] | None,
    *,
    model: str | None = None,
    stop_reason: str | None = "completed",
    status: str = "FINISHED",
    artifact: bool = True,
) -> str:
    """A confirm run whose accuracy of a combination is the mean of its scores (C, N)."""
    tags = {"study": study.name, "stage": "confirm", "method": method, "config": config, "seed": str(seed)}
    tags |= {"trial": str(trial), "mlflow.parentRunId": study.parent}
    tags |= {"stop_reason": stop_reason} if stop_reason else {}
    run_id: str = study.client.create_run(study.experiment_id, tags=tags).info.run_id
    metrics = []
    if scores is not None:
        means = zip(study.combinations.names, scores.mean(1, dtype=np.float32), strict=True)
        metrics = [Metric(f"best/test/accuracy/{name}", float(value), 0, 0) for name, value in means]
    study.client.log_batch(run_id, metrics=metrics, params=[Param("model.method", model or method)])
    if scores is not None and artifact:
        path = study.store.folder / "samples.npz"
        np.savez_compressed(path, scores=scores, combinations=np.array(study.combinations.names))
        study.client.log_artifact(run_id, str(path))
    if status != "RUNNING":
        study.client.set_terminated(run_id, status)
    return run_id


def draw(number: int, chance: float, combinations: int, samples: int = SAMPLES) -> npt.NDArray[np.float32]:
    return (np.random.default_rng(number).random((combinations, samples)) < chance).astype(np.float32)


def compared(*studies: Study, **settings: Any) -> Comparison:
    results = [load_study(s.uri, s.name, experiment=s.experiment, stage=None) for s in studies]
    return compare(results, samples=samples_reader(studies[0].uri), **settings)


@pytest.fixture(scope="module")
def written(new_study: NewStudy) -> tuple[Study, Comparison]:
    """Three blocks with five seeds each: the best and the file's defaults, and `dedicated`, whose best they are."""
    tags = {"deployment": json.dumps(ODDS), "without_modalities": json.dumps({"test": 0.25})}
    study = new_study(searched=("block",), tags=tags)
    chances = {("plain", "best 1"): 0.7, ("plain", "defaults"): 0.6, ("other", "best 1"): 0.55}
    chances |= {("other", "defaults"): 0.65, ("each", "best 1, defaults"): 0.8}
    models = {"plain": "dmrnet", "other": "dropout", "each": "dedicated"}
    for trial, ((method, config), chance) in enumerate(chances.items()):
        for seed in (5, 4, 3, 2, 1):
            confirm(study, method, config, trial, seed, draw(10 * trial + seed, chance, 7), model=models[method])
    return study, compared(study)


def raw_scores(study: Study) -> dict[str, npt.NDArray[np.float64]]:
    """(S, C, N) by label, from the artifacts."""
    client = MlflowClient(study.uri)
    found: dict[str, dict[int, Any]] = defaultdict(dict)
    for run in client.search_runs([study.experiment_id], "tags.stage = 'confirm'"):
        with open(client.download_artifacts(run.info.run_id, "samples.npz"), "rb") as file:
            scores = np.load(io.BytesIO(file.read()))["scores"]
        found[f"{run.data.tags['method']} {run.data.tags['config']}"][int(run.data.tags["seed"])] = scores
    return {label: np.stack([seeds[s] for s in sorted(seeds)]).astype(float) for label, seeds in found.items()}


def raw_values(study: Study) -> dict[str, npt.NDArray[np.float64]]:
    """(S, C) by label, from the metrics."""
    found: dict[str, dict[int, list[float]]] = defaultdict(dict)
    for run in MlflowClient(study.uri).search_runs([study.experiment_id], "tags.stage = 'confirm'"):
        values = [run.data.metrics[f"best/test/accuracy/{name}"] for name in study.combinations.names]
        found[f"{run.data.tags['method']} {run.data.tags['config']}"][int(run.data.tags["seed"])] = values
    return {label: np.array([seeds[s] for s in sorted(seeds)]) for label, seeds in found.items()}


def brute_force(differences: Sequence[float]) -> float:
    """p of the sign-flip test by trying every choice of signs."""
    observed = abs(math.fsum(differences))
    flips = itertools.product((1, -1), repeat=len(differences))
    sums = [abs(math.fsum(s * d for s, d in zip(signs, differences, strict=True))) for signs in flips]
    return sum(value >= observed - 1e-9 for value in sums) / len(sums)


def own_holm(p_values: dict[Any, float]) -> dict[Any, float]:
    adjusted, largest = {}, 0.0
    for rank, key in enumerate(sorted(p_values, key=lambda key: p_values[key])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[key]))
        adjusted[key] = largest
    return adjusted


def t_interval(values: Sequence[float]) -> tuple[float, float]:
    found = stats.ttest_1samp(values, 0.0).confidence_interval()
    return float(found.low), float(found.high)


def test_levels_are_those_of_the_raw_runs(written: tuple[Study, Comparison]) -> None:
    study, found = written
    raw = raw_values(study)
    assert [entry.label for entry in found.entries] == sorted(raw, key=lambda label: -raw[label].mean())
    works = {"rgb": 0.9, "depth": 1.0, "ir": 0.5}
    chances = [
        math.prod(p if name in combination.split("-") else 1 - p for name, p in works.items())
        for combination in found.combinations.names
    ]
    for label, values in raw.items():
        row = found.summary.loc[label]
        assert row["mean"] == pytest.approx(values.mean(), abs=1e-7)
        assert (row["low"], row["high"]) == pytest.approx(t_interval(values.mean(1)), abs=1e-6)
        middle = np.sort(values.mean(1))[1:4].mean()
        assert row["iqm"] == pytest.approx(middle, abs=1e-7)
        assert row[["iqm_low", "iqm_high"]].isna().all()
        for name, each in (
            ("worst", values.min(1)),
            ("full", values[:, -1]),
            ("expected", values @ chances / sum(chances)),
        ):
            assert tuple(row[[f"{name}_low", f"{name}_high"]]) == pytest.approx(t_interval(each), abs=1e-6)
        assert row["worst"] == pytest.approx(values.min(1).mean(), abs=1e-7)
        assert row["full"] == pytest.approx(values[:, -1].mean(), abs=1e-7)
        assert row["expected"] == pytest.approx(np.dot(values.mean(0), chances) / sum(chances), abs=1e-7)
        assert row["gap_to_dedicated"] == pytest.approx(raw["each best 1, defaults"].mean() - values.mean(), abs=1e-7)
        rows = found.by_combination[found.by_combination["label"] == label].set_index("combination")
        for c, name in enumerate(found.combinations.names):
            assert rows.at[name, "mean"] == pytest.approx(values[:, c].mean(), abs=1e-7)
            if np.ptp(values[:, c]) > 0:
                assert tuple(rows.loc[name, ["low", "high"]]) == pytest.approx(t_interval(values[:, c]), abs=1e-6)


def test_tests_are_those_of_the_raw_runs(written: tuple[Study, Comparison]) -> None:
    study, found = written
    scores, values = raw_scores(study), raw_values(study)
    reference = scores.pop("plain best 1")
    assert found.reference == "plain best 1"
    over_seeds, over_samples, by_seeds, by_samples = {}, {}, {}, {}
    for label, own in scores.items():
        difference = own - reference  # (S, C, N)
        over_seeds[label] = brute_force(difference.mean((1, 2)))
        over_samples[label] = brute_force(difference.mean((0, 1)))
        for c, name in enumerate(found.combinations.names):
            by_seeds[label, name] = brute_force(difference[:, c].mean(1))
            by_samples[label, name] = brute_force(difference[:, c].mean(0))
        assert found.summary.at[label, "minus_reference"] == pytest.approx(difference.mean(), abs=1e-7)
        assert tuple(found.summary.loc[label, ["minus_reference_low", "minus_reference_high"]]) == pytest.approx(
            t_interval(values[label].mean(1) - values["plain best 1"].mean(1)), abs=1e-6
        )
    summary, rows = found.summary.drop(index="plain best 1"), found.by_combination
    rows = rows[rows["label"] != "plain best 1"].set_index(["label", "combination"])
    for expected, frame, column in (
        (over_seeds, summary, "p_seeds"),
        (over_samples, summary, "p_samples"),
        (by_seeds, rows, "p"),
        (by_samples, rows, "p_samples"),
    ):
        assert frame[column].to_dict() == pytest.approx(expected), column
        assert frame[f"{column}_holm"].to_dict() == pytest.approx(own_holm(expected)), column
    assert found.summary.loc["plain best 1", ["minus_reference", "p_seeds", "p_samples"]].isna().all()
    (note,) = [note for note in found.notes if "seeds in common" in note]
    assert "under 0.0625, or 0.25 after Holm's correction for 4 comparisons" in note
    assert note.endswith("8 seeds are the fewest that could")
    assert (
        min(own_holm(dict.fromkeys("abcd", 2 / 2**8)).values())
        <= 0.05
        < min(own_holm(dict.fromkeys("abcd", 2 / 2**7)).values())
    )
    unequal = {label: np.count_nonzero(np.abs((own - reference).mean((1, 2))) > 1e-9) for label, own in scores.items()}
    assert summary["smallest_p_seeds"].to_dict() == {label: 2 / 2**count for label, count in unequal.items()}


def test_whether_searching_paid(written: tuple[Study, Comparison]) -> None:
    study, found = written
    scores = raw_scores(study)
    expected = {
        method: (scores[f"{method} best 1"] - scores[f"{method} defaults"]).mean((1, 2))
        for method in ("plain", "other")
    }
    tested = {f"{method} best 1": brute_force(values) for method, values in expected.items()}
    known = found.summary[found.summary["minus_defaults"].notna()]
    assert known["p_defaults"].to_dict() == pytest.approx(tested)
    assert known["p_defaults_holm"].to_dict() == pytest.approx(own_holm(tested))
    for method, values in expected.items():
        assert known.at[f"{method} best 1", "minus_defaults"] == pytest.approx(values.mean(), abs=1e-7)


def test_shapley_values_and_samples_that_get_worse(written: tuple[Study, Comparison]) -> None:
    study, found = written
    names, modalities = found.combinations.names, found.combinations.modalities
    for label, own in raw_scores(study).items():
        value = {frozenset(name.split("-")): v for name, v in zip(names, own.mean((0, 2)), strict=True)}
        value[frozenset()] = 0.25
        orders = list(itertools.permutations(modalities))
        for name in modalities:
            before = [frozenset(order[: order.index(name)]) for order in orders]
            share = np.mean([value[some | {name}] - value[some] for some in before])
            assert found.summary.at[label, f"shapley_{name}"] == pytest.approx(share, abs=1e-7)
        sets = [set(name.split("-")) for name in names]
        pairs = [
            (a, b) for a, b in itertools.permutations(range(7), 2) if sets[a] < sets[b] and len(sets[b] - sets[a]) == 1
        ]
        worse = np.mean([own[:, b] < own[:, a] for a, b in pairs])
        assert found.summary.at[label, "worse_with_more"] == pytest.approx(worse)


def names_of(found: Comparison) -> list[str]:
    return [entry.label for entry in found.entries]


def test_the_reference_may_be_named(written: tuple[Study, Comparison]) -> None:
    study, _ = written
    assert compared(study, reference="other defaults").reference == "other defaults"
    with pytest.raises(ValueError, match=r"^reference 'plain': the entries are each best 1, defaults, .*other best 1$"):
        compared(study, reference="plain")


def test_the_tenth_best_is_not_the_best(new_study: NewStudy) -> None:
    study = new_study()
    confirm(study, "a", "best 1", 0, 1, draw(1, 0.4, 7))
    confirm(study, "a", "best 10, defaults", 1, 1, draw(2, 0.9, 7))
    found = compared(study)
    assert [(entry.config, entry.is_best, entry.is_defaults) for entry in found.entries] == [
        ("best 10, defaults", False, True),
        ("best 1", True, False),
    ]
    assert found.reference == "a best 1"


def test_runs_that_failed_or_run_or_are_of_an_earlier_confirmation_fall_out(new_study: NewStudy) -> None:
    study = new_study()
    for seed in (1, 2, 3):
        confirm(study, "a", "best 1", 0, seed, draw(seed, 0.8, 7))
    for seed in (2, 3, 4):
        confirm(study, "b", "best 1", 1, seed, draw(seed, 0.5, 7))
    confirm(study, "b", "best 1", 1, 1, None, stop_reason="diverged", status="FAILED")
    confirm(study, "c", "best 1", 2, 1, None, stop_reason=None, status="RUNNING")
    confirm(study, "a", "earlier", 9, 1, draw(1, 0.9, 7))
    found = compared(study)
    assert [(entry.label, entry.seeds) for entry in found.entries] == [("a best 1", (1, 2, 3)), ("b best 1", (2, 3, 4))]
    expected = (draw(2, 0.5, 7) - draw(2, 0.8, 7)).mean() / 2 + (draw(3, 0.5, 7) - draw(3, 0.8, 7)).mean() / 2
    assert found.summary.at["b best 1", "minus_reference"] == pytest.approx(expected, abs=1e-7)
    assert found.summary.at["b best 1", "smallest_p_seeds"] == 0.5
    notes = "\n".join(found.notes)
    assert "2 of 9 confirm runs have no values: b best 1 seed 1 diverged, c best 1 seed 1 running" in notes
    assert "1 confirm run of an earlier confirmation is left out" in notes
    assert "the seeds in common with a best 1: b best 1 2" in notes
    assert "with 2 seeds in common no p over seeds is under 0.5: " in notes
    assert "6 seeds are the fewest that could" in notes
    assert "Shapley values are left out: the value without any modality is not known" in notes


def test_one_seed_of_two_modalities_without_samples(new_study: NewStudy) -> None:
    study = new_study(modalities=("left", "right"), tags={"without_modalities": '{"test": 0.5}'})
    confirm(study, "a", "best 1", 0, 1, draw(1, 0.9, 3), artifact=False)
    confirm(study, "b", "best 1", 1, 1, draw(2, 0.4, 3))
    found = compared(study)
    assert (
        found.summary[["low", "high", "p_seeds", "p_samples", "minus_defaults", "gap_to_dedicated"]]
        .isna()
        .all(axis=None)
    )
    assert found.by_combination[["low", "p", "p_samples"]].isna().all(axis=None)
    expected = (draw(2, 0.4, 3) - draw(1, 0.9, 3)).mean()
    assert found.summary.at["b best 1", "minus_reference"] == pytest.approx(expected, abs=1e-7)
    assert found.summary.at["b best 1", "worse_with_more"] >= 0.0
    worth = found.summary.loc["a best 1", ["shapley_left", "shapley_right"]].sum()
    assert worth == pytest.approx(found.summary.at["a best 1", "full"] - 0.5)
    assert "one seed: no intervals and no tests over seeds; `dmr confirm NAME --seeds 10` gives them" in found.notes
    assert "no tests over samples: the results of single samples of a best 1 are missing" in found.notes


def test_more_seeds_than_can_be_enumerated_are_swapped_at_random(new_study: NewStudy) -> None:
    study = new_study(modalities=("left", "right"))
    first, second = ([draw(100 * n + seed, chance, 3) for seed in range(18)] for n, chance in ((1, 0.6), (2, 0.5)))
    for seed in range(18):
        confirm(study, "a", "best 1", 0, seed, first[seed], artifact=False)
        confirm(study, "b", "best 1", 1, seed, second[seed], artifact=False)
    found = compared(study, reference="a best 1")
    means = [[scores.mean() for scores in of] for of in (second, first)]
    expected = paired_permutation(*(np.array(of)[:, None] for of in means), seed=7)
    assert found.summary.at["b best 1", "p_seeds"] == pytest.approx(expected.p_value, abs=0.02)


def test_a_study_without_a_confirmation_has_the_best_of_its_search(new_study: NewStudy) -> None:
    study = new_study()
    study.trial(0, [0.5] * 7)
    study.trial(1, [0.75] * 7)
    study.trial(2, None, status="FAILED", stop_reason="error")
    found = compared(study)
    assert [(entry.label, entry.trial) for entry in found.entries] == [("dmrnet best 1", 1)]
    assert (found.split, found.summary.at["dmrnet best 1", "mean"]) == ("val", 0.75)
    assert found.summary[["low", "p_seeds", "p_samples", "worse_with_more"]].isna().all(axis=None)
    assert found.notes[0].startswith("digits: nothing is confirmed, so these are the best trials of the search, on val")
    assert found.notes[1].startswith("val, the search's own seed")
    study.trial(3, [0.8] * 7, stop_reason="time_budget")
    assert [entry.label for entry in compared(study).entries] == ["dmrnet best 1 (stopped early)"]


def test_a_confirmed_study_beside_one_that_is_not_is_compared_on_val(new_study: NewStudy) -> None:
    one, other = new_study(name="one"), new_study(name="other")
    confirm(one, "a", "best 1", 0, 1, draw(1, 0.9, 7))
    one.trial(0, [0.5] * 7)
    other.trial(0, [0.25] * 7)
    found = compared(one, other)
    assert (found.split, names_of(found)) == ("val", ["one: dmrnet best 1", "other: dmrnet best 1"])
    assert found.notes[0].startswith("other: nothing is confirmed")


def test_what_a_confirmation_has_on_val_does_not_choose_the_best_of_the_search(new_study: NewStudy) -> None:
    one, other = new_study(name="one"), new_study(name="other")
    one.trial(0, [0.75] * 7)
    one.trial(1, [0.5] * 7)
    one.trial(1, [1.0] * 7, stage="confirm", seed=1)
    other.trial(0, [0.25] * 7)
    assert [(entry.label, entry.trial) for entry in compared(one, other).entries] == [
        ("one: dmrnet best 1", 0),
        ("other: dmrnet best 1", 0),
    ]


def test_two_studies_are_told_apart_and_share_the_tests(new_study: NewStudy) -> None:
    one, other = new_study(name="one", tags={"deployment": '{"rgb": 0.5}'}), new_study(name="other")
    for study, chance in ((one, 0.5), (other, 0.9)):
        for seed in (1, 2):
            confirm(study, "dmrnet", "best 1", 0, seed, draw(seed, chance, 7))
    found = compared(one, other)
    assert names_of(found) == ["other: dmrnet best 1", "one: dmrnet best 1"]
    assert found.reference == "one: dmrnet best 1"
    assert found.deployment is None
    assert "expected" not in found.summary
    assert "the studies have different deployment odds: expected values are left out" in found.notes
    with pytest.raises(ValueError, match=r"^one: given twice$"):
        compared(one, one)


def test_studies_that_differ_are_refused_in_one_line(new_study: NewStudy) -> None:
    one, other = new_study(name="one"), new_study(name="other")
    for study in (one, other):
        confirm(study, "a", "best 1", 0, 1, draw(1, 0.9, 7))
    first, second = (load_study(s.uri, s.name, experiment=s.experiment, stage=None) for s in (one, other))
    for what, changed in (
        ("data set: digits; scenes", {"dataset": "scenes"}),
        ("modalities: rgb, depth, ir; a, b, c", {"modalities": ("a", "b", "c")}),
        ("main metric: accuracy; miou", {"main_metric": "miou"}),
        ("combinations evaluated: all 7; 5 of 7", {"combinations": "5 of 7"}),
    ):
        with pytest.raises(ValueError, match=f"^one and other cannot be compared: {what}$"):
            compare([first, replace(second, **changed)], samples=lambda _: None)


def test_a_study_without_values_is_refused(new_study: NewStudy) -> None:
    study = new_study()
    study.trial(0, None, status="RUNNING", stop_reason=None)
    with pytest.raises(ValueError, match=r"^digits: no trial has values$"):
        compared(study)
