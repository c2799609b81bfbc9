from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr
from sklearn.metrics import accuracy_score
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import dmr.evaluation
from dmr.combinations import all_combinations
from dmr.data.batches import Batches
from dmr.data.dataset import MultimodalDataset
from dmr.distributed.ranks import ALONE
from dmr.evaluation import SplitEvaluation, class_mean_cosine, evaluate, rank_correlation
from dmr.methods import METHODS
from dmr.methods.base import Features, Prediction
from dmr.networks.network import Network
from dmr.training import RunSettings, build_network

CPU = torch.device("cpu")
MakeDataset = Callable[..., MultimodalDataset]
MakeSettings = Callable[..., RunSettings]


# --- diagnostics ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("absent", [None, 1])
def test_cosine_between_class_means_against_loops(absent: int | None) -> None:
    means = torch.randn((5, 4, 6), dtype=torch.float64)
    if absent is not None:
        means[:, absent] = 0.0  # a class without samples
    cosines = [
        float(means[i, label] @ means[j, label] / (means[i, label].norm() * means[j, label].norm()))
        for label in range(4)
        if label != absent
        for i, j in itertools.combinations(range(5), 2)
    ]
    assert class_mean_cosine(means) == pytest.approx(np.mean(cosines))
    assert class_mean_cosine(7.0 * means) == pytest.approx(np.mean(cosines))


def test_cosine_between_class_means_by_hand() -> None:
    one_direction = torch.tensor([1.0, 2.0, -1.0]).expand(3, 2, 3) * torch.tensor([1.0, 5.0, 0.1]).view(3, 1, 1)
    assert class_mean_cosine(one_direction) == pytest.approx(1.0)
    at_right_angles = torch.eye(3)[:, None, :].expand(-1, 2, -1)
    assert class_mean_cosine(at_right_angles) == pytest.approx(0.0, abs=1e-12)
    opposite = torch.tensor([[[1.0, 1.0]], [[-2.0, -2.0]]])
    assert class_mean_cosine(opposite) == pytest.approx(-1.0)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=3, max_size=30))
def test_rank_correlation_against_scipy(pairs: list[tuple[int, int]]) -> None:
    first, second = np.array(pairs, dtype=np.float64).T
    got = rank_correlation(first, second)
    if len(set(first)) == 1 or len(set(second)) == 1:
        assert math.isnan(got)
    else:
        assert got == pytest.approx(spearmanr(first, second).statistic, abs=1e-12)
    assert math.isnan(rank_correlation(np.append(first, math.nan), np.append(second, 1.0)))


# --- all combinations of a split --------------------------------------------------------------------------------------


@pytest.fixture(params=["classification", "segmentation"])
def dataset(request: pytest.FixtureRequest, make_dataset: MakeDataset, make_maps: MakeDataset) -> MultimodalDataset:
    return make_dataset(3, val=33) if request.param == "classification" else make_maps(3, val=9, size=(8, 8))


@pytest.mark.parametrize("at_once", [5, 512])
def test_evaluation_is_one_pass_a_combination(
    at_once: int, make_dataset: MakeDataset, make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dmr.evaluation, "EVALUATION_BATCH", at_once)
    dataset = make_dataset(3, val=33)
    network = build_network(dataset, make_settings(dataset, dropout=0.5)).train()
    combinations = all_combinations(dataset.modality_names)
    split = dataset.splits["val"]
    found = evaluate(network, dataset, Batches(split, CPU), combinations)
    assert not network.training
    inputs = {name: torch.from_numpy(array) for name, array in split.inputs.items()}
    for c, member in enumerate(combinations.members):
        mask = torch.tensor([[m in member for m in range(3)]])
        with torch.no_grad():
            encoded = [encoder(inputs[name])[-1] for encoder, name in zip(network.encoders, network.names, strict=True)]
            features = Features([f * mask[:, m : m + 1] for m, f in enumerate(encoded)], [])
            predicted = network.method.predict(features, mask.expand(1, 33, 3)).logits[0].argmax(-1)
        assert found.values["accuracy"][c] == pytest.approx(accuracy_score(split.labels, predicted), abs=1e-6)
        np.testing.assert_array_equal(found.scores[c], (predicted.numpy() == split.labels))


@pytest.mark.parametrize("method", METHODS)
def test_evaluation_in_batches_is_that_at_once(
    method: str, dataset: MultimodalDataset, make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = build_network(dataset, make_settings(dataset, METHODS[method].Settings()))
    combinations = all_combinations(dataset.modality_names)
    arguments = (network, dataset, Batches(dataset.splits["val"], CPU), combinations)
    at_once = evaluate(*arguments)
    count = len(dataset.splits["val"])
    assert at_once.scores.shape == (7, count)
    main = "miou" if dataset.task == "segmentation" else "accuracy"
    assert at_once.values[main].shape == (7,)
    pixels = 64 if dataset.task == "segmentation" else 1
    limits = ("EVALUATION_BATCH", 4), ("EVALUATION_VALUES", 2 * 8 * 8 * 2), ("EVALUATION_LOGITS", 2 * 7 * 3 * pixels)
    for limit, value in limits:
        with monkeypatch.context() as patch:
            patch.setattr(dmr.evaluation, limit, value)
            in_batches = evaluate(*arguments)
        assert in_batches.values.keys() == at_once.values.keys()
        for name, values in at_once.values.items():
            np.testing.assert_allclose(in_batches.values[name], values, rtol=1e-5, atol=1e-6, err_msg=name)
        np.testing.assert_allclose(in_batches.scores, at_once.scores, rtol=1e-6)
        assert in_batches.diagnostics == pytest.approx(at_once.diagnostics, rel=1e-5)


def test_no_more_logits_at_once_than_fit(
    make_maps: MakeDataset, make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = make_maps(3, val=9, size=(8, 8))
    network = build_network(dataset, make_settings(dataset))
    logits = []

    def predict(inputs: dict[str, Tensor], masks: Tensor) -> Prediction:
        predicted = Network.predict(network, inputs, masks)
        logits.append(predicted.logits.numel())
        return predicted

    monkeypatch.setattr(network, "predict", predict)
    monkeypatch.setattr(dmr.evaluation, "EVALUATION_LOGITS", 4 * 7 * 8 * 8 * 3 + 1)
    evaluate(network, dataset, Batches(dataset.splits["val"], CPU), all_combinations(dataset.modality_names))
    assert logits == [4 * 7 * 8 * 8 * 3, 4 * 7 * 8 * 8 * 3, 7 * 8 * 8 * 3]


@pytest.mark.parametrize("method", METHODS)
def test_which_diagnostics_a_method_has(method: str, dataset: MultimodalDataset, make_settings: MakeSettings) -> None:
    network = build_network(dataset, make_settings(dataset, METHODS[method].Settings()))
    found = evaluate(
        network, dataset, Batches(dataset.splits["val"], CPU), all_combinations(dataset.modality_names)
    ).diagnostics
    with_embedding = method not in {"dedicated", "simmlm", "unimodal_ensemble"} and dataset.task == "classification"
    assert ("class_mean_cosine" in found) == with_embedding
    assert ("variance_error_correlation" in found) == (method == "dmrnet")
    assert all(math.isfinite(value) and -1.0 - 1e-9 <= value <= 1.0 + 1e-9 for value in found.values())


def test_the_diagnostics_are_of_the_embeddings_and_variances(
    make_dataset: MakeDataset, make_settings: MakeSettings
) -> None:
    dataset = make_dataset(3, val=33)
    network = build_network(dataset, make_settings(dataset)).eval()
    split, combinations = dataset.splits["val"], all_combinations(dataset.modality_names)
    found = evaluate(network, dataset, Batches(split, CPU), combinations)
    with torch.no_grad():
        predicted = network.predict(
            {name: torch.from_numpy(array) for name, array in split.inputs.items()}, network.combinations
        )
    assert predicted.embedding is not None
    assert predicted.variance is not None
    means = torch.stack([predicted.embedding[:, split.labels == label].mean(1) for label in range(3)], dim=1)
    assert found.diagnostics["class_mean_cosine"] == pytest.approx(class_mean_cosine(means), rel=1e-5)
    error = [1.0 - accuracy_score(split.labels, logits.argmax(-1)) for logits in predicted.logits]
    expected = spearmanr(predicted.variance.mean(1), error).statistic
    assert found.diagnostics["variance_error_correlation"] == pytest.approx(expected)


def test_evaluation_keeps_nothing_of_the_step(make_dataset: MakeDataset, make_settings: MakeSettings) -> None:
    """Running statistics are left alone and no gradient is kept."""
    dataset = make_dataset(2)
    network: Network = build_network(dataset, make_settings(dataset)).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    evaluate(network, dataset, Batches(dataset.splits["val"], CPU), all_combinations(dataset.modality_names))
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert network.encoded == 0


class Waits(TorchDispatchMode):
    """Notes the operations for which a GPU would be waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        indices = args[1] if name in {"index", "index_put", "index_put_"} else ()
        by_flags = any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in indices)
        waiting = {"_local_scalar_dense", "nonzero", "masked_select", "bincount", "equal", "is_nonzero"}
        if name in waiting or "unique" in name or by_flags:
            self.found.add(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("lacking", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_no_batch_waits_for_a_gpu(
    method: str, lacking: bool, dataset: MultimodalDataset, make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = build_network(dataset, make_settings(dataset, METHODS[method].Settings()))
    split = dataset.splits["val"]
    if lacking:
        split = replace(split, present=np.arange(3 * len(split)).reshape(-1, 3) % 4 > 0)
    waits, run = Waits(), SplitEvaluation._run

    def watched(evaluation: SplitEvaluation, *given: Any) -> None:
        with waits:
            run(evaluation, *given)

    monkeypatch.setattr(SplitEvaluation, "_run", watched)
    monkeypatch.setattr(dmr.evaluation, "EVALUATION_BATCH", 4)
    evaluate(network, dataset, Batches(split, CPU), all_combinations(dataset.modality_names))
    assert waits.found == set()


def test_the_batches_of_a_cpu_fit_its_cache(make_dataset: MakeDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = make_dataset(2, val=100, kind="image", shape=(3, 8, 8))
    batches, sizes = Batches(dataset.splits["val"], CPU), []
    for limit, fewest in ((10 * 192, 4), (10 * 192, 16), (2**17, 16)):
        monkeypatch.setattr(dmr.evaluation, "CPU_VALUES", limit)
        monkeypatch.setattr(dmr.evaluation, "CPU_BATCH", fewest)
        sizes.append([part.stop - part.start for part in dmr.evaluation.evaluation_parts(dataset, batches, 3, ALONE)])
    assert sizes == [[10] * 10, [16] * 6 + [4], [100]]


@pytest.mark.parametrize("kept", [0, 2 * 4 * 3 * 8, 2**24])
@pytest.mark.parametrize("lacking", [False, True])
def test_diagnostics_from_features_kept_or_encoded_again(
    kept: int, lacking: bool, make_dataset: MakeDataset, make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Equal to those of the plain path, which an observer takes."""
    dataset = make_dataset(3, val=33)
    network = build_network(dataset, make_settings(dataset))
    split = dataset.splits["val"]
    if lacking:
        split = replace(split, present=np.arange(99).reshape(33, 3) % 4 > 0)
    arguments = (network, dataset, Batches(split, CPU), all_combinations(dataset.modality_names))
    plain = evaluate(*arguments, observer=lambda *_: None)
    monkeypatch.setattr(dmr.evaluation, "EVALUATION_BATCH", 4)
    monkeypatch.setattr(dmr.evaluation, "KEPT_FEATURES", kept)
    found = evaluate(*arguments)
    assert found.diagnostics == pytest.approx(plain.diagnostics, rel=1e-5)
    assert len(found.diagnostics) == 2
    for name, values in plain.values.items():
        np.testing.assert_allclose(found.values[name], values, rtol=1e-6, atol=1e-6, err_msg=name)
    np.testing.assert_array_equal(found.scores, plain.scores)
