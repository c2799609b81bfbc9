"""Which sensor can be dropped, of networks trained on sensors of which it is known what they hold."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
import torch

from dmr.analysis.comparison.comparison import Comparison, compare
from dmr.analysis.comparison.without_modality import without_modality
from dmr.analysis.report.answer import answer
from dmr.analysis.results.record_names import COLUMNS, RUN_COLUMNS, Tag
from dmr.analysis.results.study_results import StudyResults
from dmr.combinations import all_combinations, complete_metric
from dmr.data.dataset import Modality, MultimodalDataset, Split
from dmr.data.missing import complete_samples, take_away, tied_to_class
from dmr.direction import Direction
from dmr.encoders import default_encoder
from dmr.methods.dropout import DropoutSettings
from dmr.runs.run_settings import RunSettings
from dmr.settings import SamplingSettings, TrainSettings
from dmr.training import EpochReport, fit
from dmr.training import test as judge_on_test
from dmr.without_modalities import value_without_modalities

CPU = torch.device("cpu")
SEEDS = (1, 2, 3)
Sensors = Callable[[npt.NDArray[np.int64], np.random.Generator], dict[str, npt.NDArray[np.float64]]]


class Kept:
    """A reporter that keeps the network of the best epoch."""

    network: Any = None

    def load(self) -> None:
        return None

    def save(self, state: dict[str, Any], is_best: bool) -> None:
        self.network = state["network"] if is_best else self.network

    def report(self, report: EpochReport) -> None:
        pass


def made(sensors: Sensors, classes: int, tested: int = 600) -> MultimodalDataset:
    splits = {}
    for number, (split, samples) in enumerate({"train": 600, "val": 200, "test": tested}.items()):
        draw = np.random.default_rng(number)
        labels = np.arange(samples) % classes
        splits[split] = Split({k: v.astype(np.float32) for k, v in sensors(labels, draw).items()}, labels)
    shapes = {name: array.shape[1:] for name, array in splits["train"].inputs.items()}
    modalities = tuple(Modality(name, "vector", shape) for name, shape in shapes.items())
    return MultimodalDataset("made", "classification", tuple(map(str, range(classes))), modalities, splits)


def confirmed(dataset: MultimodalDataset, epochs: int) -> tuple[StudyResults, Comparison]:
    """A study of one configuration that was trained with a few seeds, as a run and its study write it."""
    names = all_combinations(dataset.modality_names).names
    rows: list[tuple[Any, ...]] = []
    runs: list[tuple[Any, ...]] = []
    encoders = {modality.name: default_encoder(modality) for modality in dataset.modalities}
    train = TrainSettings(epochs=epochs, learning_rate=1e-2)
    for seed in SEEDS:
        kept = Kept()
        settings = RunSettings(
            DropoutSettings(), encoders, SamplingSettings(), train, "concat", "val/nll_mean", "min", None, seed
        )
        fit(dataset, settings, CPU, kept)
        found = judge_on_test(dataset, settings, CPU, kept.network)
        start = (f"run{seed}", 0, "confirm", "completed", "dropout")
        runs.append((*start, "best 1", seed, 1.0, "dropout"))
        for metric in ("accuracy", complete_metric("accuracy")):
            values = found.values.get(metric, ())
            pairs = zip(names, values, strict=bool(values))
            rows += [(*start, seed, "test", metric, name, value) for name, value in pairs if not np.isnan(value)]
    tags = {Tag.TIED: json.dumps(tied_to_class(dataset)), Tag.COMPLETE: json.dumps(complete_samples(dataset))}
    empty = value_without_modalities(dataset, "test", "accuracy")
    results = StudyResults(
        study="s",
        dataset="made",
        modalities=dataset.modality_names,
        objectives=({"metric": "val/accuracy_mean", "mode": Direction.MAX},),
        searched=(),
        main_metric="accuracy",
        main_mode=Direction.MAX,
        combinations=f"all {len(names)}",
        parent_run_id="p",
        tags=tags if empty is None else tags | {Tag.WITHOUT_MODALITIES: json.dumps({"test": empty})},
        runs=pd.DataFrame(runs, columns=list(RUN_COLUMNS)).set_index("run"),
        table=pd.DataFrame(rows, columns=list(COLUMNS)),
    )
    return results, compare([results], samples=lambda run: None)


def sentences(results: StudyResults, comparison: Comparison) -> str:
    return " ".join(answer(results, comparison, None).sentences)


def four_sensors(labels: npt.NDArray[np.int64], draw: np.random.Generator) -> dict[str, npt.NDArray[np.float64]]:
    """Eight classes: two sensors that both say which of four pairs, one that says, uncertainly, which of the pair, and
    one of noise.
    """
    pair = np.eye(4)[labels // 2]
    return {
        "twin": pair + 0.05 * draw.standard_normal(pair.shape),
        "other_twin": pair + 0.05 * draw.standard_normal(pair.shape),
        "needed": (2.0 * (labels % 2) - 1.0)[:, None] + 2.0 * draw.standard_normal((len(labels), 1)),
        "useless": draw.standard_normal((len(labels), 2)),
    }


@pytest.fixture(scope="module")
def useless_and_redundant() -> tuple[StudyResults, Comparison]:
    return confirmed(made(four_sensors, 8), epochs=8)


def test_the_sensor_to_drop_is_never_the_one_that_is_needed(
    useless_and_redundant: tuple[StudyResults, Comparison],
) -> None:
    results, found = useless_and_redundant
    row = found.summary.loc["dropout best 1"]
    assert row["without_needed"] > 0.1
    for name in ("twin", "other_twin", "useless"):
        assert row[f"without_{name}"] < 0.03
        assert row[f"without_{name}_low"] <= row[f"without_{name}"] <= row[f"without_{name}_high"]
    shares = [row[f"shapley_{name}"] for name in ("twin", "other_twin")]
    assert min(shares) > row["shapley_needed"] + 0.02, "by the Shapley value the needed one would go first"
    said = sentences(results, found)
    assert said.index("What is lost without each modality") < said.index("Shapley values share the credit")
    dropped = said.split("If one has to go, drop ")[1]
    assert dropped.split(":")[0] in ("twin", "other_twin", "useless")
    assert "needed" not in dropped.split(".")[0]


def test_with_a_useless_sensor_alone_it_goes() -> None:
    def three(labels: npt.NDArray[np.int64], draw: np.random.Generator) -> dict[str, npt.NDArray[np.float64]]:
        sensors = four_sensors(labels, draw)
        return {name: sensors[name] for name in ("twin", "useless", "needed")}

    results, found = confirmed(made(three, 8), epochs=5)
    assert "If one has to go, drop useless" in sentences(results, found)


def test_losses_by_hand(useless_and_redundant: tuple[StudyResults, Comparison]) -> None:
    entry = useless_and_redundant[1].entries[0]
    combinations = all_combinations(("a", "b"))
    one = replace(entry, values=np.array([[0.5, 0.7, 0.9], [0.6, 0.6, 1.0]]))
    lost = without_modality(one, combinations, Direction.MAX)
    assert lost["a"] == pytest.approx((0.3, 0.3 - 12.7062 * 0.1, 0.3 + 12.7062 * 0.1, 2), rel=1e-4)
    assert lost["b"].estimate == pytest.approx(0.4)
    assert without_modality(one, combinations, Direction.MIN)["a"].estimate == pytest.approx(-0.3)
    assert without_modality(replace(one, comparable=False), combinations, Direction.MAX) == {}
    alone = without_modality(replace(one, values=one.values[:1]), combinations, Direction.MAX)
    assert np.isnan([alone["a"].low, alone["a"].high]).all()


def noise(labels: npt.NDArray[np.int64], draw: np.random.Generator) -> dict[str, npt.NDArray[np.float64]]:
    return {name: draw.standard_normal((len(labels), 3)) for name in ("a", "b")}


def test_noise_that_is_missing_more_often_in_one_class_has_no_worth() -> None:
    """A network learns that who has `a` is of the other class: of single combinations a is then right in 0.83, b in
    half, and by these `a` would be worth 0.34.
    """
    dataset = made(noise, 2)
    splits = {}
    for name, split in dataset.splits.items():
        present = np.ones((len(split), 2), dtype=bool)
        present[:, 0] = (split.labels == 0) | (np.arange(len(split)) % 10 == 1)
        splits[name] = replace(split, present=present)
    results, found = confirmed(replace(dataset, splits=splits), epochs=3)
    rows = found.by_combination.set_index("combination")["mean"]
    assert rows["a"] > 0.8 > 0.6 > rows["b"], "each combination's own samples"
    assert not [name for name in found.summary if str(name).startswith(("shapley_", "without_"))]
    assert any("a is missing more often in some classes" in note for note in found.notes)
    assert any("of the 360 samples with all modalities; a combination's own row" in note for note in found.notes)
    assert not any("Shapley values are left out" in note for note in found.notes), "which has another reason"
    said = sentences(results, found)
    assert "What is lost without each modality is left out: a is missing more often in some classes" in said
    assert "drop" not in said
    assert answer(results, found, None).headline.endswith("(3 seeds, the 360 samples with all modalities).")


def test_noise_that_is_missing_by_chance_is_worth_nothing() -> None:
    _, found = confirmed(take_away(made(noise, 2, 60_000), {"train": 0.4, "val": 0.4, "test": 0.4}, 1), epochs=1)
    row = found.summary.loc["dropout best 1"]
    assert row[["shapley_a", "shapley_b"]].abs().max() < 0.01
    assert row[["without_a", "without_b"]].abs().max() < 0.02


def test_without_samples_that_have_all_nothing_is_said_of_combinations() -> None:
    dataset = made(noise, 2)
    present = np.tile([[True, False], [False, True]], (300, 1))
    splits = {name: replace(split, present=present[: len(split)]) for name, split in dataset.splits.items()}
    results, found = confirmed(replace(dataset, splits=splits), epochs=1)
    assert found.summary[["worst", "full"]].isna().all(axis=None)
    assert not [name for name in found.summary if str(name).startswith(("shapley_", "without_"))]
    assert any("no sample of test has all modalities" in note for note in found.notes)
    said = sentences(results, found)
    assert "weakest" not in said
    assert "What is lost without each modality is not known: no sample of test has all modalities." in said
