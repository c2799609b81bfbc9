from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import multivariate_normal, norm
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from dmr.combinations import combination_name
from dmr.data.dataset import MultimodalDataset
from dmr.data.planted import (
    FULL_DISTANCE,
    SHARED_VARIANCE,
    PlantedSettings,
    _gains,
    _model,
    bayes_predictions,
    best_accuracy,
    planted,
)

LARGE = 40_000
NAMES = ("a", "b", "c", "noise")  # with four modalities


def columns(dataset: MultimodalDataset, split: str, combination: str) -> np.ndarray:
    return np.concatenate([dataset.splits[split].inputs[name] for name in combination.split("-")], axis=1)


def tolerance(value: float, count: int) -> float:
    """Four standard errors of an accuracy over `count` samples."""
    return 4.0 * float(np.sqrt(value * (1.0 - value) / count))


@pytest.fixture(scope="module", params=[3, 4])
def settings(request: pytest.FixtureRequest) -> PlantedSettings:
    return PlantedSettings(modalities=request.param, train=20_000, val=10, test=LARGE)


@pytest.fixture(scope="module")
def dataset(settings: PlantedSettings) -> MultimodalDataset:
    return planted(settings)


@pytest.mark.parametrize("modalities", [3, 4, 5, 6])
def test_the_task_is_neither_easy_nor_hopeless(modalities: int) -> None:
    best = best_accuracy(PlantedSettings(modalities=modalities))
    names = [name for name in best if "-" not in name]
    *informative, noise = names
    assert noise == "noise"
    assert len(informative) == modalities - 1
    assert 0.85 < best[combination_name(names, names)].value < 0.97
    assert all(0.4 < best[name].value < 0.8 for name in informative)
    assert [best[name].value for name in informative] == sorted((best[n].value for n in informative), reverse=True)


@pytest.mark.parametrize("modalities", [2, 3, 4, 8])
def test_the_noise_changes_nothing(modalities: int) -> None:
    best = best_accuracy(PlantedSettings(modalities=modalities))
    assert best.pop("noise").value == pytest.approx(1 / 6, abs=1e-8)
    with_noise = [name for name in best if name.endswith("-noise")]
    assert len(with_noise) == 2 ** (modalities - 1) - 1
    assert all(best[name] == best[name.removesuffix("-noise")] for name in with_noise)


def test_more_modalities_never_hurt() -> None:
    best = best_accuracy(PlantedSettings(modalities=5))
    for name, few in best.items():
        for other, more in best.items():
            if set(name.split("-")) < set(other.split("-")):
                assert few.value <= more.value


@pytest.mark.parametrize("weakest", [0.7, 0.05])
@pytest.mark.parametrize("classes", [2, 3, 6, 10])
def test_the_best_accuracy_is_that_of_the_distance_in_the_model(classes: int, weakest: float) -> None:
    settings = PlantedSettings(modalities=4, classes=classes, weakest=weakest)
    means, loading = _model(settings)
    features = 2 * (classes - 1)
    assert means.shape == (classes, 4 * features)
    for name, best in best_accuracy(settings).items():
        chosen = np.concatenate([np.arange(features) + features * NAMES.index(part) for part in name.split("-")])
        covariance = np.eye(len(chosen)) + loading[:, chosen].T @ loading[:, chosen]
        apart = means[1:, chosen] - means[0, chosen]
        squared = (apart * np.linalg.solve(covariance, apart.T).T).sum(axis=1)
        np.testing.assert_allclose(squared, squared[0], atol=1e-9)  # a regular simplex
        distance = float(np.sqrt(squared[0]))
        expected = quad(lambda t, d: norm.pdf(t - d / np.sqrt(2)) * norm.cdf(t) ** (classes - 1), -9, 15, args=distance)
        assert best.value == pytest.approx(expected[0], abs=1e-7)
        assert best.error == 0.0
        if classes == 2:
            assert best.value == pytest.approx(norm.cdf(distance / 2), abs=1e-7)
        if name == "a-b-c-noise":
            assert squared[0] == pytest.approx(FULL_DISTANCE)


def test_the_shared_noise_correlates_all_modalities_but_the_last(dataset: MultimodalDataset) -> None:
    settings = PlantedSettings(modalities=len(dataset.modalities))
    train = dataset.splits["train"]
    means, loading = _model(settings)
    names = dataset.modality_names
    values = columns(dataset, "train", "-".join(names)) - means[train.labels]
    found = np.cov(values, rowvar=False)
    np.testing.assert_allclose(found, np.eye(len(found)) + loading.T @ loading, atol=0.12)
    features = dataset.modalities[0].shape[0]
    between = np.abs(found[:features, features : 2 * features])
    gains = _gains(settings)
    assert np.linalg.norm(between) == pytest.approx(gains[0] * gains[1] * SHARED_VARIANCE * np.sqrt(5), rel=0.1)
    assert np.abs(found[:-features, -features:]).max() < 0.06
    assert np.abs(train.inputs["noise"][train.labels == 2].mean(axis=0)).max() < 0.1


def test_the_bayes_classifier_reaches_the_best_accuracy(settings: PlantedSettings, dataset: MultimodalDataset) -> None:
    test = dataset.splits["test"]
    best = best_accuracy(settings)
    assert dataset.description["best_accuracy"] == {name: [value, error] for name, (value, error) in best.items()}
    for name, (value, _) in best.items():
        right = (bayes_predictions(settings, test.inputs, name) == test.labels).mean()
        assert right == pytest.approx(value, abs=tolerance(value, LARGE))


def test_a_fitted_discriminant_comes_close_and_not_above(settings: PlantedSettings, dataset: MultimodalDataset) -> None:
    labels = {split: dataset.splits[split].labels for split in ("train", "test")}
    for name, (value, _) in best_accuracy(settings).items():
        fitted = LinearDiscriminantAnalysis().fit(columns(dataset, "train", name), labels["train"])
        score = fitted.score(columns(dataset, "test", name), labels["test"])
        assert score < value + tolerance(value, LARGE)
        assert score > value - 0.01


@pytest.mark.parametrize("combination", ["a", "c", "a-b", "noise-b", "a-b-c-noise"])
def test_the_bayes_classifier_is_the_largest_posterior(combination: str) -> None:
    settings = PlantedSettings(modalities=4, classes=4, train=300)
    train = planted(settings).splits["train"]
    means, loading = (part.reshape(len(part), 4, 6) for part in _model(settings))
    members = sorted(NAMES.index(name) for name in combination.split("-"))
    shared = loading[:, members].reshape(3, -1)
    values = np.concatenate([train.inputs[NAMES[m]] for m in members], axis=1)
    densities = [
        multivariate_normal(mean[members].ravel(), np.eye(6 * len(members)) + shared.T @ shared).logpdf(values)
        for mean in means
    ]
    np.testing.assert_array_equal(bayes_predictions(settings, train.inputs, combination), np.argmax(densities, axis=0))


def test_the_noise_cannot_move_the_bayes_classifier() -> None:
    settings = PlantedSettings(train=200)
    inputs = planted(settings).splits["train"].inputs
    before = bayes_predictions(settings, inputs, "a-b")
    np.testing.assert_array_equal(bayes_predictions(settings, inputs, "a-b-noise"), before)
    loud = {**inputs, "noise": 1e3 * inputs["noise"]}
    np.testing.assert_array_equal(bayes_predictions(settings, loud, "a-b-noise"), before)


def test_an_unknown_combination() -> None:
    settings = PlantedSettings(train=10)
    with pytest.raises(ValueError, match="combination of a, d: the modalities are a, b, noise"):
        bayes_predictions(settings, planted(settings).splits["train"].inputs, "a-d")


def test_sizes_types_and_names() -> None:
    dataset = planted(PlantedSettings(modalities=5, classes=3, train=50, val=20, test=30))
    assert dataset.modality_names == ("a", "b", "c", "d", "noise")
    assert (dataset.task, dataset.num_classes, dataset.ignore_index) == ("classification", 3, None)
    assert {name: len(split) for name, split in dataset.splits.items()} == {"train": 50, "val": 20, "test": 30}
    for split in dataset.splits.values():
        assert split.labels.dtype == np.int64
        assert {array.dtype.name for array in split.inputs.values()} == {"float32"}
        assert {array.shape for array in split.inputs.values()} == {(len(split), 4)}
    assert {(m.kind, m.shape) for m in dataset.modalities} == {("vector", (4,))}


def test_only_the_seed_decides(under_two_global_seeds: Callable[[Callable[[], Any]], tuple[Any, Any]]) -> None:
    one, same = under_two_global_seeds(lambda: planted(PlantedSettings(train=100)))
    longer = planted(PlantedSettings(train=200))
    other = planted(PlantedSettings(train=100, seed=1))
    assert other.description == one.description
    for split in ("train", "val", "test"):
        np.testing.assert_array_equal(one.splits[split].inputs["a"], same.splits[split].inputs["a"])
        np.testing.assert_array_equal(one.splits[split].labels, same.splits[split].labels)
        assert not np.array_equal(one.splits[split].labels, other.splits[split].labels)
    np.testing.assert_array_equal(one.splits["test"].inputs["b"], longer.splits["test"].inputs["b"])


def test_the_splits_share_no_sample() -> None:
    splits = planted(PlantedSettings(train=500, val=500, test=500)).splits
    rows = np.concatenate([split.inputs["a"] for split in splits.values()])
    assert len(np.unique(rows, axis=0)) == 1500
