"""Samples that lack modalities, from training to summaries: what is absent is never looked at, and never counts."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from dmr.combinations import all_combinations
from dmr.data.batches import Batches
from dmr.data.dataset import MultimodalDataset, Split
from dmr.data.missing import complete_samples, take_away, tied_to_class
from dmr.evaluation import class_mean_cosine, evaluate
from dmr.methods import METHODS, Method, MethodSettings
from dmr.methods.dmrnet import DMRNetSettings
from dmr.metrics import summarise
from dmr.sampling import available_in
from dmr.settings import SamplingSettings
from dmr.training import RunSettings, build_network, fit
from dmr.training import test as judge_on_test

CPU = torch.device("cpu")
MakeDataset = Callable[..., MultimodalDataset]
MakeSettings = Callable[..., RunSettings]
Early = Callable[[type[Method]], MethodSettings]
Identical = Callable[[Any, Any], None]
TASKS = ("classification", "segmentation")


@pytest.fixture(scope="session")
def make_incomplete(make_dataset: MakeDataset, make_maps: MakeDataset) -> MakeDataset:
    def make(task: str, modalities: int = 3, rate: float = 0.4, **sizes: int) -> MultimodalDataset:
        """Every split lacks modalities at `rate`."""
        if task == "segmentation":
            whole = make_maps(modalities, **{"train": 12, "val": 8, "test": 8} | sizes, size=(8, 8))
        else:
            whole = make_dataset(modalities, **{"train": 30, "val": 24, "test": 24} | sizes)
        return take_away(whole, dict.fromkeys(whole.splits, rate), seed=3)

    return make


def spoiled(dataset: MultimodalDataset) -> MultimodalDataset:
    """NaN and 1e30 in every input that is absent."""

    def spoil(split: Split) -> Split:
        inputs = {}
        for m, (name, array) in enumerate(split.inputs.items()):
            absent = np.flatnonzero(~split.has()[:, m])
            inputs[name] = array.copy()
            inputs[name][absent[::2]] = np.nan
            inputs[name][absent[1::2]] = 1e30
        return replace(split, inputs=inputs)

    return replace(dataset, splits={name: spoil(split) for name, split in dataset.splits.items()})


def with_present(dataset: MultimodalDataset, split: str, present: Any) -> MultimodalDataset:
    changed = replace(dataset.splits[split], present=np.asarray(present, dtype=bool))
    return replace(dataset, splits={**dataset.splits, split: changed})


# --- training ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("method", METHODS)
def test_what_is_absent_is_never_looked_at(
    method: str,
    task: str,
    make_incomplete: MakeDataset,
    make_settings: MakeSettings,
    early: Early,
    memory_reporter: Any,
    assert_identical: Identical,
) -> None:
    dataset = make_incomplete(task)
    settings = make_settings(dataset, early(METHODS[method]), SamplingSettings(combinations_per_sample=2))
    one, other = memory_reporter(), memory_reporter()
    fit(dataset, settings, CPU, one)
    fit(spoiled(dataset), settings, CPU, other)
    assert one.reports == other.reports
    assert_identical(one.states, other.states)
    network = one.states[-1]["network"]
    expected, found = (judge_on_test(data, settings, CPU, network) for data in (dataset, spoiled(dataset)))
    assert expected.metrics == found.metrics
    np.testing.assert_array_equal(expected.scores, found.scores)


@pytest.mark.parametrize("method", METHODS)
def test_samples_that_have_all_are_trained_on_as_without_a_word(
    method: str,
    make_dataset: MakeDataset,
    make_settings: MakeSettings,
    early: Early,
    memory_reporter: Any,
    assert_identical: Identical,
) -> None:
    dataset = make_dataset(3)
    settings = make_settings(dataset, early(METHODS[method]), SamplingSettings(combinations_per_sample=2))
    one, other = memory_reporter(), memory_reporter()
    fit(dataset, settings, CPU, one)
    fit(with_present(dataset, "train", np.ones((18, 3))), settings, CPU, other)
    assert one.reports == other.reports
    assert_identical(one.states, other.states)


def test_only_combinations_within_the_samples_are_drawn(
    make_dataset: MakeDataset, make_settings: MakeSettings, memory_reporter: Any
) -> None:
    """Nobody has b with c, so nothing is ever known of the combinations that hold both."""
    dataset = make_dataset(3, train=40)
    present = np.array([[True, True, False], [True, False, True]])[np.arange(40) % 2]
    reporter = memory_reporter()
    settings = make_settings(dataset, sampling=SamplingSettings("hardness", combinations_per_sample=4))
    fit(with_present(dataset, "train", present), settings, CPU, reporter)
    combinations = all_combinations(dataset.modality_names)
    difficulty = dict(zip(combinations.names, reporter.states[-1]["difficulty"].tolist(), strict=True))
    assert {name for name, value in difficulty.items() if math.isnan(value)} == {"b-c", "a-b-c"}


def test_encoders_run_for_what_was_drawn_only(
    make_dataset: MakeDataset, make_settings: MakeSettings, memory_reporter: Any
) -> None:
    dataset = make_dataset(3, train=30)
    present = np.eye(3, dtype=bool)[np.arange(30) % 3]
    reporter = memory_reporter()
    fit(with_present(dataset, "train", present), make_settings(dataset), CPU, reporter)
    assert [report.metrics["train/encoder_passes"] for report in reporter.reports] == [30.0] * 3


def test_a_run_on_incomplete_samples_goes_on_bit_for_bit(
    make_incomplete: MakeDataset,
    make_settings: MakeSettings,
    memory_reporter: Any,
    stopped_here: type[Exception],
    assert_identical: Identical,
) -> None:
    dataset = make_incomplete("classification")
    settings = make_settings(dataset, DMRNetSettings(warmup_epochs=1), SamplingSettings("hardness"), dropout=0.2)
    whole, stopped = memory_reporter(), memory_reporter(stop_after=1)
    fit(dataset, settings, CPU, whole)
    with pytest.raises(stopped_here, match="after epoch 1"):
        fit(dataset, settings, CPU, stopped)
    resumed = memory_reporter(start=stopped.states[-1])
    fit(dataset, settings, CPU, resumed)
    assert_identical(whole.states[-1], resumed.states[-1])


# --- evaluation -------------------------------------------------------------------------------------------------------


def test_who_can_be_asked_by_hand() -> None:
    combinations = all_combinations(("a", "b"))
    has = torch.tensor([[True, False], [False, True], [True, True]])
    expected = [[True, False, True], [False, True, True], [False, False, True]]
    assert available_in(torch.from_numpy(combinations.masks), has).tolist() == expected


@pytest.mark.parametrize("at_once", [5, 512])
@pytest.mark.parametrize("method", ["dmrnet", "hemis", "simmlm", "dedicated", "late_fusion_transformer"])
def test_classification_against_a_loop_over_samples(
    method: str,
    at_once: int,
    make_incomplete: MakeDataset,
    make_settings: MakeSettings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("dmr.evaluation.EVALUATION_BATCH", at_once)
    dataset = make_incomplete("classification")
    network = build_network(dataset, make_settings(dataset, METHODS[method].Settings())).eval()
    combinations = all_combinations(dataset.modality_names)
    split = dataset.splits["val"]
    found = evaluate(network, spoiled(dataset), Batches(spoiled(dataset).splits["val"], CPU), combinations)
    for c, member in enumerate(combinations.members):
        right, nll = [], []
        for i in range(len(split)):
            if not split.has()[i, list(member)].all():
                assert math.isnan(found.scores[c, i])
                continue
            alone = {
                name: torch.from_numpy(array[[i]] if m in member else np.zeros_like(array[[i]]))
                for m, (name, array) in enumerate(split.inputs.items())
            }
            with torch.no_grad():
                logits = network.predict(alone, network.combinations[c : c + 1]).logits[0, 0]
            right.append(int(logits.argmax()) == split.labels[i])
            nll.append(-float(logits.log_softmax(0)[split.labels[i]]))
            assert found.scores[c, i] == right[-1]
        assert found.values["samples"][c] == len(right) > 0
        assert found.values["accuracy"][c] == pytest.approx(np.mean(right))
        assert found.values["nll"][c] == pytest.approx(np.mean(nll), rel=1e-4)


@pytest.mark.parametrize("method", ["dmrnet", "hemis", "simmlm"])
def test_segmentation_against_a_loop_over_images(
    method: str, make_incomplete: MakeDataset, make_settings: MakeSettings
) -> None:
    dataset = make_incomplete("segmentation")
    network = build_network(dataset, make_settings(dataset, METHODS[method].Settings())).eval()
    combinations = all_combinations(dataset.modality_names)
    split = dataset.splits["val"]
    found = evaluate(network, spoiled(dataset), Batches(spoiled(dataset).splits["val"], CPU), combinations)
    for c, member in enumerate(combinations.members):
        confusion = np.zeros((3, 3))
        count = 0
        for i in range(len(split)):
            if not split.has()[i, list(member)].all():
                assert math.isnan(found.scores[c, i])
                continue
            alone = {name: torch.from_numpy(array[[i]]) for name, array in split.inputs.items()}
            with torch.no_grad():
                predicted = network.predict(alone, network.combinations[c : c + 1]).logits[0, 0].argmax(-1).numpy()
            counted = split.labels[i] != 255
            np.add.at(confusion, (split.labels[i][counted], predicted[counted]), 1)
            count += 1
            assert found.scores[c, i] == pytest.approx((predicted == split.labels[i])[counted].mean())
        assert found.values["samples"][c] == count > 0
        hit = np.diag(confusion)
        assert found.values["pixel_accuracy"][c] == pytest.approx(hit.sum() / confusion.sum())
        union = confusion.sum(0) + confusion.sum(1) - hit
        assert found.values["miou"][c] == pytest.approx((hit / union)[confusion.sum(1) > 0].mean())


@pytest.fixture(params=TASKS)
def nobody_complete(
    request: pytest.FixtureRequest, make_dataset: MakeDataset, make_maps: MakeDataset
) -> MultimodalDataset:
    """In val, a comes with b or alone, and c alone: nobody has a-c, b-c or all."""
    dataset = make_dataset(3) if request.param == "classification" else make_maps(3, val=12, size=(8, 8))
    patterns = np.array([[True, True, False], [True, False, False], [False, False, True]])
    return with_present(dataset, "val", patterns[np.arange(12) % 3])


COVERED = {"a": 8, "b": 4, "c": 4, "a-b": 4, "a-c": 0, "b-c": 0, "a-b-c": 0}


def test_a_combination_nobody_has_is_absent(
    nobody_complete: MultimodalDataset, make_settings: MakeSettings, memory_reporter: Any
) -> None:
    reporter = memory_reporter()
    report = fit(nobody_complete, make_settings(nobody_complete, deployment={"a": 0.5}), CPU, reporter)
    values = report.best_values["val"]
    assert values["samples"] == list(COVERED.values())
    main = "miou" if nobody_complete.task == "segmentation" else "accuracy"
    for name, value in values.items():
        if name != "samples" and not name.startswith("iou_"):
            assert [math.isnan(v) for v in value] == [count == 0 for count in COVERED.values()], name
    met = np.array(values[main])[:4]
    assert report.best_metrics["val/combinations_covered"] == 4.0
    assert report.best_metrics["val/samples_complete"] == 0.0
    assert report.best_metrics[f"val/{main}_mean"] == pytest.approx(met.mean())
    assert not {f"val/{main}_full", f"val/{main}_worst"} & set(report.best_metrics), "of different samples"
    assert f"{main}_complete" not in values
    assert all(math.isfinite(value) for value in report.metrics.values())


def test_summaries_by_hand() -> None:
    combinations = all_combinations(("a", "b"))
    values = {"accuracy": np.array([0.5, np.nan, np.nan]), "nll": np.array([1.5, np.nan, np.nan])}
    found = summarise({**values, "samples": np.array([3, 0, 0])}, combinations, np.array([0.2, 0.3, 0.5]))
    assert found == pytest.approx(
        {
            "combinations_covered": 1.0,
            "samples_complete": 0.0,
            **{f"accuracy_{name}": 0.5 for name in ("mean", "expected")},
            **{f"nll_{name}": 1.5 for name in ("mean", "expected")},
        }
    )
    values = {"accuracy": np.array([0.5, 0.1, 0.9]), "nll": np.array([1.5, 0.1, 0.25])}
    values |= {"accuracy_complete": np.array([0.4, 0.6, 0.9]), "nll_complete": np.array([1.0, 0.5, 0.25])}
    found = summarise({**values, "samples": np.array([8, 5, 3])}, combinations, np.array([0.25, 0.5, 0.25]))
    assert found == pytest.approx(
        {
            "samples_complete": 3.0,
            "accuracy_mean": 1.9 / 3,
            "accuracy_worst": 0.4,
            "accuracy_full": 0.9,
            "accuracy_expected": 0.625,
            "nll_mean": 1.75 / 3,
            "nll_worst": 1.0,
            "nll_full": 0.25,
            "nll_expected": 0.5625,
        }
    )


@pytest.mark.parametrize("at_once", [5, 512])
@pytest.mark.parametrize("task", TASKS)
def test_combinations_are_compared_on_the_samples_that_have_all(
    task: str, at_once: int, make_incomplete: MakeDataset, make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dmr.evaluation.EVALUATION_BATCH", at_once)
    dataset = make_incomplete(task)
    network, combinations = build_network(dataset, make_settings(dataset)), all_combinations(dataset.modality_names)
    split = dataset.splits["val"]
    found = evaluate(network, dataset, Batches(split, CPU), combinations)
    whole = np.flatnonzero(split.has().all(axis=1))
    assert 0 < len(whole) < len(split)
    kept = replace(
        split, inputs={k: v[whole] for k, v in split.inputs.items()}, labels=split.labels[whole], present=None
    )
    alone = evaluate(network, dataset, Batches(kept, CPU), combinations)
    for name, value in alone.values.items():
        if name.startswith("iou_"):
            assert f"{name}_complete" not in found.values
        else:
            np.testing.assert_allclose(found.values[f"{name}_complete"], value, rtol=1e-5)
    summaries = summarise(found.values, combinations)
    assert summaries.pop("samples_complete") == len(whole)
    assert summaries == pytest.approx(summarise(alone.values, combinations), rel=1e-5)


def test_a_modality_missing_more_often_in_one_class_is_found(make_dataset: MakeDataset) -> None:
    dataset = make_dataset(2, train=400, val=400, test=400)
    assert tied_to_class(dataset) == ()
    by_chance = take_away(dataset, {"train": 0.5, "val": 0.2, "test": 0.8}, seed=1)
    assert tied_to_class(by_chance) == ()
    present = np.ones((400, 2), dtype=bool)
    present[:, 1] = (dataset.splits["test"].labels != 0) | (np.arange(400) % 5 == 0)
    assert tied_to_class(with_present(by_chance, "test", present)) == (dataset.modality_names[1],)
    counts = complete_samples(with_present(dataset, "test", present))
    assert counts == {"test": int(present[:, 1].sum())}


def test_where_everybody_has_all_nothing_is_said_of_samples(
    make_dataset: MakeDataset, make_settings: MakeSettings
) -> None:
    dataset = make_dataset(3)
    combinations = all_combinations(dataset.modality_names)
    network = build_network(dataset, make_settings(dataset))
    plain = evaluate(network, dataset, Batches(dataset.splits["val"], CPU), combinations)
    assert "samples" not in plain.values
    split = with_present(dataset, "val", np.ones((12, 3))).splits["val"]
    told = evaluate(network, dataset, Batches(split, CPU), combinations)
    assert told.values.pop("samples").tolist() == [12.0] * 7
    assert told.diagnostics == plain.diagnostics
    for name, value in plain.values.items():
        np.testing.assert_array_equal(told.values[name], value)
    assert "combinations_covered" not in summarise({**told.values, "samples": np.full(7, 12)}, combinations)


def test_the_class_means_of_combinations_nobody_has_are_left_out(
    make_dataset: MakeDataset, make_settings: MakeSettings
) -> None:
    dataset = make_dataset(3)
    split = with_present(dataset, "val", np.tile([True, True, False], (12, 1))).splits["val"]
    network = build_network(dataset, make_settings(dataset))
    found = evaluate(network, dataset, Batches(split, CPU), all_combinations(dataset.modality_names))
    with torch.no_grad():
        inputs = {name: torch.from_numpy(array) for name, array in split.inputs.items()}
        embedding = network.eval().predict(inputs, network.combinations[[0, 1, 3]]).embedding
    assert embedding is not None
    means = torch.stack([embedding[:, split.labels == label].mean(1) for label in range(3)], dim=1)
    assert found.diagnostics["class_mean_cosine"] == pytest.approx(class_mean_cosine(means), rel=1e-5)


# --- methods that look at whole samples -------------------------------------------------------------------------------


@pytest.mark.parametrize("task", TASKS)
def test_a_dedicated_model_is_trained_on_the_samples_that_have_what_it_needs(
    task: str, make_incomplete: MakeDataset, make_settings: MakeSettings
) -> None:
    dataset = spoiled(make_incomplete(task, train=9))
    network = build_network(dataset, make_settings(dataset, METHODS["dedicated"].Settings()))
    split = dataset.splits["train"]
    inputs = {name: torch.from_numpy(array) for name, array in split.inputs.items()}
    labels, has = torch.from_numpy(split.labels), torch.from_numpy(split.has())
    alone = copy.deepcopy(network.method.models)
    found = network.losses(inputs, labels, network.full(9), torch.Generator(), has)
    found.total.backward()
    combinations = all_combinations(dataset.modality_names)
    for c, (member, model, other) in enumerate(zip(combinations.members, network.method.models, alone, strict=True)):
        rows = np.flatnonzero(split.has()[:, list(member)].all(axis=1))
        own = found.task[found.combination == c]
        assert len(own) == len(rows)
        if len(rows) == 0:
            assert all(parameter.grad is None for parameter in model.parameters())
            continue
        expected = other.losses({n: x[rows] for n, x in inputs.items()}, labels[rows], other.full(len(rows)), None)
        expected.total.backward()
        torch.testing.assert_close(own, expected.task[0])
        for (name, one), (_, two) in zip(model.named_parameters(), other.named_parameters(), strict=True):
            torch.testing.assert_close(one.grad, two.grad, msg=name)


def test_a_teacher_teaches_complete_samples_alone(make_incomplete: MakeDataset, make_settings: MakeSettings) -> None:
    dataset = spoiled(make_incomplete("classification"))
    network = build_network(dataset, make_settings(dataset, METHODS["mmanet"].Settings()))
    network.method.start_epoch(0, all_combinations(dataset.modality_names), torch.Generator())
    split = dataset.splits["train"]
    inputs = {name: torch.from_numpy(array) for name, array in split.inputs.items()}
    labels, has = torch.from_numpy(split.labels), torch.from_numpy(split.has())
    complete = has.all(1)
    assert 1 < complete.sum() < len(complete)
    seen = torch.where(complete, 0, 1)[None]
    found = network.losses(inputs, labels, seen, torch.Generator(), has).terms["distillation"]
    kept = {name: x[complete] for name, x in inputs.items()}
    expected = network.losses(kept, labels[complete], seen[:, complete], torch.Generator()).terms["distillation"]
    assert expected > 0
    torch.testing.assert_close(found, expected)
