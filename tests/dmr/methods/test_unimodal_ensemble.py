from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dmr.combinations import all_combinations
from dmr.data.batches import Batches
from dmr.data.planted import PlantedSettings, bayes_predictions, planted
from dmr.distributed.ranks import Ranks
from dmr.encoders.mlp import MLPSettings
from dmr.evaluation import evaluate
from dmr.losses import TaskLoss
from dmr.methods.dedicated import DedicatedSettings
from dmr.methods.unimodal_ensemble import UnimodalEnsembleSettings, combined
from dmr.networks.network import Network
from dmr.training import RunSettings, fit

CPU = torch.device("cpu")
THREE = all_combinations(["a", "b", "c"])
MASKS = torch.from_numpy(THREE.masks)
MakeNetwork = Callable[..., Any]


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


# --- the rule ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pixels", [(), (2, 3)])
def test_true_posteriors_of_independent_modalities_give_the_true_posterior(pixels: tuple[int, ...]) -> None:
    """Three discrete sensors with known p(x_m|y) and unequal p(y): Bayes' rule over all of them at once."""
    prior = torch.tensor([0.5, 0.3, 0.15, 0.05], dtype=torch.float64)
    likelihood = torch.rand((3, 6, 4), dtype=torch.float64) + 0.05  # of the value that sensor m shows in sample b
    spread = likelihood.view(3, 6, *[1] * len(pixels), 4).expand(3, 6, *pixels, 4)
    each = (spread * prior / (spread * prior).sum(-1, keepdim=True)).log()
    found = combined(each, MASKS, prior.log(), "product").exp()
    for c, member in enumerate(THREE.members):
        joint = prior * spread[list(member)].prod(0)
        torch.testing.assert_close(found[c], joint / joint.sum(-1, keepdim=True))


def test_the_mean_by_hand() -> None:
    each = torch.tensor([[[0.5, 0.5]], [[0.9, 0.1]]]).log()  # geometric mean: √(.45) to √(.05), a ratio of 3
    found = combined(each, torch.tensor([[True, True], [False, True]]), torch.tensor([0.2, 0.8]).log(), "mean")
    torch.testing.assert_close(found.exp(), torch.tensor([[[0.75, 0.25]], [[0.9, 0.1]]]))


def test_on_independent_modalities_it_is_within_a_point_of_the_best_possible(
    make_settings: Callable[..., RunSettings], memory_reporter: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the noise that planted modalities share they are independent given the class."""
    monkeypatch.setitem(planted.__globals__, "SHARED_VARIANCE", 1e-6)
    drawn = PlantedSettings(classes=3, train=16_000, val=4000, test=2)
    dataset, reporter = planted(drawn), memory_reporter()
    train = {"epochs": 4, "batch_size": 200, "schedule": "cosine", "evaluate_every": 4}
    settings = make_settings(dataset, UnimodalEnsembleSettings(), encoder=MLPSettings(width=32), **train)
    fit(dataset, settings, CPU, reporter)
    network = Network.restored(settings.design(dataset), reporter.states[-1]["network"])
    combinations = all_combinations(dataset.modality_names)
    found = evaluate(network, dataset, Batches(dataset.splits["val"], CPU), combinations).values["accuracy"]
    val = dataset.splits["val"]
    best = [np.mean(bayes_predictions(drawn, val.inputs, name) == val.labels) for name in combinations.names]
    assert (best - found < 0.01).all(), dict(zip(combinations.names, best - found, strict=True))


# --- p(y) -------------------------------------------------------------------------------------------------------------


def test_the_prior_is_that_of_the_training_labels(
    make_dataset: Callable[..., Any], make_settings: Callable[..., RunSettings], memory_reporter: Any
) -> None:
    dataset = make_dataset(2, train=18)
    labels = np.repeat(np.arange(3), [12, 5, 1])
    dataset = replace(dataset, splits=dataset.splits | {"train": replace(dataset.splits["train"], labels=labels)})
    reporter = memory_reporter()
    settings = make_settings(dataset, UnimodalEnsembleSettings(), epochs=2, batch_size=4)
    fit(dataset, settings, CPU, reporter)
    network = Network.restored(settings.design(dataset), reporter.states[-1]["network"])
    torch.testing.assert_close(network.method.log_prior().exp(), torch.tensor([12.0, 5.0, 1.0]) / 18)


def test_ignored_pixels_are_not_counted_and_weights_are_those_of_the_loss() -> None:
    labels = torch.tensor([[[0, 255], [2, 2]], [[255, 0], [0, 1]]])
    assert TaskLoss(None, 255).class_counts(labels, 4).tolist() == [3, 1, 2, 0]
    assert TaskLoss(torch.tensor([1.0, 2.0, 0.5, 0.0]), 255).class_counts(labels, 4).tolist() == [3, 2, 1, 0]
    assert TaskLoss().class_counts(torch.tensor([1, 1, 0]), 2).tolist() == [1, 2]


def test_what_never_occurred_is_unlikely_and_finite(make_network: MakeNetwork) -> None:
    network, inputs, _ = make_network(UnimodalEnsembleSettings())
    torch.testing.assert_close(network.method.log_prior().exp(), torch.full((3,), 1 / 3))
    network.losses(inputs, torch.zeros(7, dtype=torch.int64), torch.zeros((1, 7), dtype=torch.int64), generator())
    torch.testing.assert_close(network.method.log_prior().exp(), torch.tensor([7.0, 1.0, 1.0]) / 9)
    assert network.eval().predict(inputs, network.combinations).logits.isfinite().all()


def test_every_rank_counts_the_labels_of_all(make_network: MakeNetwork, monkeypatch: pytest.MonkeyPatch) -> None:
    network, inputs, labels = make_network(UnimodalEnsembleSettings())
    monkeypatch.setattr(Ranks, "total", lambda self, values: values * 2)  # the other rank has seen the same
    network.losses(inputs, labels, torch.zeros((1, 7), dtype=torch.int64), generator())
    assert torch.equal(network.method.counts, 2.0 * torch.bincount(labels, minlength=3))


# --- the networks -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["classification", "segmentation"])
def test_its_networks_are_those_of_dedicated(make_network: MakeNetwork, task: Any) -> None:
    """Of one modality; so are their losses, gradients and predictions."""
    ensemble, inputs, labels = make_network(UnimodalEnsembleSettings(), task)
    dedicated = make_network(DedicatedSettings(), task).network
    for own, other in zip(ensemble.method.models, dedicated.method.models[:3], strict=True):
        other.load_state_dict(own.state_dict())
    seen = torch.full((1, 7), 6)
    one, two = (network.losses(inputs, labels, seen, generator()) for network in (ensemble, dedicated))
    assert torch.equal(one.task, two.task[:3])
    assert torch.equal(one.combination, two.combination[:3])
    for losses in (one, two):
        losses.total.backward()
    for own, other in zip(ensemble.method.models, dedicated.method.models[:3], strict=True):
        for (name, p), q in zip(own.named_parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(p.grad, q.grad, msg=name)
    singles = MASKS[:3]
    one, two = (network.eval().predict(inputs, singles).logits for network in (ensemble, dedicated))
    torch.testing.assert_close(one, two.log_softmax(-1))


def test_each_network_is_asked_once(make_network: MakeNetwork, monkeypatch: pytest.MonkeyPatch) -> None:
    network, inputs, _ = make_network(UnimodalEnsembleSettings())
    asked: list[Tensor] = []
    for model in network.eval().method.models:
        monkeypatch.setattr(model, "predict", lambda *given, own=model.predict: asked.append(given[1]) or own(*given))
    network.predict(inputs, network.combinations)
    assert [len(masks) for masks in asked] == [1, 1, 1]
