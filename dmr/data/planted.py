"""Vectors drawn from a known model, so that the best accuracy anybody can reach is known for every combination.

Letters: N samples, M modalities, C classes, F = 2(C − 1) features of a modality, J features of several modalities.

Classes are equally likely. The class means v_c are the corners of a regular simplex with edges of 1. Modality m shows a
class twice, in a part whose noise s all modalities share and in a part of its own, and mixes both by a rotation Q_m:

    x_m = g_m · (v_c + √SHARED_VARIANCE · s, v_c) Q_m + e_m,    s and e_m standard normal

The last modality is noise alone: its gain g_m is 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from dmr.combinations import Combinations, all_combinations
from dmr.data.dataset import Modality, MultimodalDataset, Split, wrong_labels
from dmr.seeds import derive_seed
from dmr.settings import setting

Floats = npt.NDArray[np.float64]

SHARED_VARIANCE = 0.2
FULL_DISTANCE = 14.0  # squared, between classes with all modalities: a best accuracy of 0.89 for 6 classes
QUADRATURE_NODES = 64


@dataclass(frozen=True)
class PlantedSettings:
    """Sizes of the data set; `seed` draws the rotations and the samples. `weakest` is g_m² of the weakest modality that
    carries signal over that of the strongest; `label_noise` the share of the training samples whose label is wrong.
    The best accuracies depend on `modalities`, `classes` and `weakest` alone; with two modalities a single one carries
    all the signal.
    """

    modalities: int = setting(3, ge=2, le=8)
    classes: int = setting(6, ge=2, le=10)
    train: int = setting(6000, ge=2, le=100_000)
    val: int = setting(2000, ge=2, le=100_000)
    test: int = setting(4000, ge=2, le=100_000)
    weakest: float = setting(0.7, gt=0.0, le=1.0)
    label_noise: float = setting(0.0, ge=0.0, lt=1.0)
    seed: int = setting(0, ge=0)


class BestAccuracy(NamedTuple):
    """The accuracy of the Bayes classifier and its standard error: 0, since it is integrated and not estimated."""

    value: float
    error: float


def planted(settings: PlantedSettings) -> MultimodalDataset:
    """Modalities `a`, `b`, ... that carry signal, ever less, and `noise`; every split is a draw of its own. The
    description holds `best_accuracy`: `[value, error]` by combination.
    """
    names = _names(settings)
    means, loading = _model(settings)
    features = len(loading.T) // len(names)
    splits = {}
    for split, count in (("train", settings.train), ("val", settings.val), ("test", settings.test)):
        draw = np.random.default_rng(derive_seed("planted", settings.seed, split))
        labels = draw.integers(settings.classes, size=count)
        shared = draw.standard_normal((count, len(loading)))
        values = means[labels] + shared @ loading + draw.standard_normal((count, len(loading.T)))
        by_modality = np.split(values.astype(np.float32), len(names), axis=1)
        inputs = {name: np.ascontiguousarray(part) for name, part in zip(names, by_modality, strict=True)}
        if split == "train":
            noise = np.random.default_rng(derive_seed("planted", settings.seed, "label noise"))
            labels = wrong_labels(labels, settings.label_noise, settings.classes, noise)
        splits[split] = Split(inputs, labels)
    return MultimodalDataset(
        "planted",
        "classification",
        tuple(map(str, range(settings.classes))),
        tuple(Modality(name, "vector", (features,)) for name in names),
        splits,
        {"best_accuracy": {name: list(best) for name, best in best_accuracy(settings).items()}},
    )


def best_accuracy(settings: PlantedSettings) -> dict[str, BestAccuracy]:
    """The accuracy of the Bayes classifier of every combination, by name.

    With the sum A of g_m² over the combination, the squared Mahalanobis distance between any two classes is
    Δ² = A / (1 + SHARED_VARIANCE · A) + A. All pairs of classes being equally far apart, the classifier is right as
    often as the detector of one of C orthogonal signals: E[Φ(Z + Δ/√2)^(C − 1)], Z standard normal (Proakis and Salehi,
    Digital Communications, 5th ed., section 4.4), here by Gauss–Hermite quadrature, which errs by less than 1e-8.
    """
    combinations = _combinations(settings)
    power = (combinations.masks * _gains(settings) ** 2).sum(axis=1)
    distance = np.sqrt(power / (1.0 + SHARED_VARIANCE * power) + power)
    nodes, weights = np.polynomial.hermite_e.hermegauss(QUADRATURE_NODES)
    below = torch.special.ndtr(torch.from_numpy(nodes + distance[:, None] / np.sqrt(2.0))).numpy()
    values = (below ** (settings.classes - 1) * weights).sum(axis=1) / weights.sum()
    return {name: BestAccuracy(float(value), 0.0) for name, value in zip(combinations.names, values, strict=True)}


def bayes_predictions(
    settings: PlantedSettings, inputs: Mapping[str, npt.NDArray[Any]], combination: str
) -> npt.NDArray[np.int64]:
    """(N,) most probable class given the modalities of `combination`, each (N, F) in `inputs`: the linear discriminant
    with the true means and covariance, in which the noise modality has no weight.

    Raises:
        ValueError: no such combination.
    """
    combinations = _combinations(settings)
    members = list(combinations.members[combinations.index(combination)])
    means, loading = (
        whole.reshape(len(whole), settings.modalities, -1)[:, members].reshape(len(whole), -1)
        for whole in _model(settings)
    )
    covariance = np.eye(len(loading.T)) + loading.T @ loading
    weights = np.linalg.solve(covariance, means.T)
    values = np.concatenate([inputs[combinations.modalities[m]] for m in members], axis=1)
    scores = values @ weights - 0.5 * (means * weights.T).sum(axis=1)
    return np.asarray(scores.argmax(axis=1), dtype=np.int64)


def _names(settings: PlantedSettings) -> tuple[str, ...]:
    return (*"abcdefg"[: settings.modalities - 1], "noise")


def _combinations(settings: PlantedSettings) -> Combinations:
    return all_combinations(_names(settings))


def _gains(settings: PlantedSettings) -> Floats:
    """(M,) g_m: falling powers whose sum A solves A / (1 + SHARED_VARIANCE · A) + A = FULL_DISTANCE."""
    linear = 2.0 - SHARED_VARIANCE * FULL_DISTANCE
    total = (np.sqrt(linear**2 + 4.0 * SHARED_VARIANCE * FULL_DISTANCE) - linear) / (2.0 * SHARED_VARIANCE)
    shares = np.linspace(1.0, settings.weakest, settings.modalities - 1)
    return np.append(np.sqrt(total * shares / shares.sum()), 0.0)


def _model(settings: PlantedSettings) -> tuple[Floats, Floats]:
    """Means (C, J), loading (C − 1, J) of the shared noise, J = M · F: the covariance is I + loadingᵀ loading."""
    classes, size = settings.classes, settings.classes - 1
    draw = np.random.default_rng(derive_seed("planted", settings.seed, "model"))
    centred, _ = np.linalg.qr(np.column_stack([np.ones(classes), np.eye(classes)[:, :size]]))
    corners = centred[:, 1:] / np.sqrt(2.0)
    seen = np.concatenate([corners, corners], axis=1)
    shared = np.sqrt(SHARED_VARIANCE) * np.eye(size, 2 * size)
    mixed = [gain * np.linalg.qr(draw.standard_normal((2 * size, 2 * size)))[0] for gain in _gains(settings)]
    return np.concatenate([seen @ mix for mix in mixed], axis=1), np.concatenate(
        [shared @ mix for mix in mixed], axis=1
    )
