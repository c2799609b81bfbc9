from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch

from dmr.combinations import all_combinations
from dmr.data.dataset import Task
from dmr.methods.dedicated import DedicatedSettings
from dmr.methods.dropout import Dropout

TASKS: list[Task] = ["classification", "segmentation"]
MakeNetwork = Callable[..., Any]


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("modalities", [2, 3, 4])
def test_there_is_a_model_of_every_combination(make_network: MakeNetwork, modalities: int) -> None:
    network, _, _ = make_network(DedicatedSettings(head_norm="layer"), modalities=modalities)
    combinations = all_combinations([f"m{m}" for m in range(modalities)])
    assert len(network.method.models) == 2**modalities - 1
    assert len(network.encoders) == 0
    for model, member in zip(network.method.models, combinations.members, strict=True):
        assert model.names == tuple(f"m{m}" for m in member)
        assert len(model.encoders) == len(member)
        assert isinstance(model.method, Dropout)
        assert model.method.settings.head_norm == "layer"
    parameters = [id(parameter) for model in network.method.models for parameter in model.parameters()]
    assert len(set(parameters)) == len(parameters)


@pytest.mark.parametrize("task", TASKS)
def test_every_model_gets_the_gradients_of_training_it_alone(make_network: MakeNetwork, task: Task) -> None:
    network, inputs, labels = make_network(DedicatedSettings(), task)
    alone = copy.deepcopy(network.method.models)
    got = network.losses(inputs, labels, torch.tensor([[0, 3, 6, 1, 1, 2, 4]]), generator())
    got.total.backward()
    assert got.task.shape == got.combination.shape == (7, 7)
    for c, (model, other) in enumerate(zip(network.method.models, alone, strict=True)):
        own = {name: inputs[name] for name in other.names}
        full = torch.full((1, 7), len(other.combinations) - 1)
        expected = other.losses(own, labels, full, generator())
        expected.total.backward()
        assert (got.combination[c] == c).all()
        torch.testing.assert_close(got.task[c], expected.task[0])
        for (name, one), (_, two) in zip(model.named_parameters(), other.named_parameters(), strict=True):
            assert one.grad is not None, name
            torch.testing.assert_close(one.grad, two.grad, msg=name)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4, 5, 6], [6, 2, 4, 2]])
def test_the_prediction_of_a_combination_is_of_its_own_model(
    make_network: MakeNetwork, task: Task, order: list[int]
) -> None:
    network, inputs, _ = make_network(DedicatedSettings(), task)
    network.eval()
    found = network.predict(inputs, network.combinations[order])
    assert len(found.logits) == len(order)
    for logits, c in zip(found.logits, order, strict=True):
        model = network.method.models[c]
        own = {name: inputs[name] for name in model.names}
        expected = model.predict(own, torch.ones(1, len(model.names), dtype=torch.bool)).logits[0]
        assert torch.equal(logits, expected)


def test_it_draws_nothing_but_the_full_combination(make_network: MakeNetwork) -> None:
    network, _, _ = make_network(DedicatedSettings())
    combinations = all_combinations(["m0", "m1", "m2"])
    drawn = network.method.drawn(torch.full((7,), 1 / 7, dtype=torch.float64), combinations)
    assert drawn.tolist() == [0, 0, 0, 0, 0, 0, 1]


def test_its_encoder_passes_are_those_of_all_models(make_network: MakeNetwork) -> None:
    network, inputs, labels = make_network(DedicatedSettings())
    network.losses(inputs, labels, torch.full((1, 7), 6), generator())
    assert sum(model.encoded for model in network.method.models) == 7 * 3 * 4  # each modality is in 4 of the 7
