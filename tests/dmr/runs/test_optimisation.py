from __future__ import annotations

import copy
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import nn

from dmr.distributed.ranks import ALONE
from dmr.runs.optimisation import OPTIMIZERS, Optimisation
from dmr.settings import Optimizer, TrainSettings

TORCH: dict[str, Any] = {
    "adamw": torch.optim.AdamW,
    "adam": torch.optim.Adam,
    "sgd": lambda *given, **how: torch.optim.SGD(*given, **how, momentum=0.9),
}
UNUSABLE = 4


class Layers(nn.ModuleList):
    """The first two layers are encoders of one modality, and nothing is of the third."""

    def encoder_parameters(self) -> dict[str, list[nn.Parameter]]:
        return {"a": [*self[0].parameters(), *self[1].parameters()], "b": list(self[2].parameters()), "c": []}


def networks() -> tuple[Any, Any]:
    network = Layers([nn.Linear(5, 3), nn.Linear(3, 2), nn.Conv2d(2, 4, 3)])
    network[2].to(memory_format=torch.channels_last)
    return network, copy.deepcopy(network)


def loss(network: nn.ModuleList, number: int) -> torch.Tensor:
    """The second layer is not used in the first steps and in some later ones; one step is not finite."""
    draw = torch.Generator().manual_seed(number)
    x = network[0](torch.randn((7, 5), generator=draw))
    if number > 1 and number % 3:
        x = network[1](x)
    y = network[2](torch.randn((2, 2, 4, 4), generator=draw))
    return x.square().mean() + y.exp().mean() * (torch.inf if number == UNUSABLE else 1.0)


@pytest.mark.parametrize("clip_norm", [None, 0.1])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_steps_are_those_of_torchs_own_optimiser(optimizer: Optimizer, clip_norm: float | None) -> None:
    ours, theirs = networks()
    settings = TrainSettings(
        optimizer=optimizer, learning_rate=0.01, weight_decay=0.1, schedule="linear", clip_norm=clip_norm
    )
    optimisation = Optimisation(ours, settings, ALONE)
    reference = TORCH[optimizer](theirs.parameters(), lr=0.01, weight_decay=0.1, foreach=False)
    for number in range(8):
        optimisation.set_learning_rate(number / 8)
        assert optimisation.step(loss(ours, number)).item() == float(number == UNUSABLE)
        if number == UNUSABLE:
            continue
        reference.zero_grad()
        loss(theirs, number).backward()  # type: ignore[no-untyped-call]
        if clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(theirs.parameters(), clip_norm)
        reference.param_groups[0]["lr"] = 0.01 * (1 - number / 8)
        reference.step()
        for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("clip_norm", [None, 0.1])
def test_gradient_norms_are_means_over_steps_before_clipping(clip_norm: float | None) -> None:
    network, _ = networks()
    optimisation = Optimisation(network, TrainSettings(clip_norm=clip_norm), ALONE)
    for numbers in ([0, 1, 2], [3]):  # of two epochs; the second layer has no gradient in the steps 0, 1 and 3
        norms: dict[str, list[float]] = {"a": [], "b": [], "c": []}
        for number in numbers:
            for name, parameters in network.encoder_parameters().items():
                found = torch.autograd.grad(loss(network, number), parameters, allow_unused=True) if parameters else ()
                norms[name].append(sum(float(g.square().sum()) for g in found if g is not None) ** 0.5)
            optimisation.step(loss(network, number))
        expected = {name: sum(values) / len(values) for name, values in norms.items()}
        assert optimisation.take_encoder_norms() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_state_of_torchs_own_optimiser_is_gone_on_from(optimizer: Optimizer) -> None:
    """Checkpoints of earlier versions have one."""
    ours, theirs = networks()
    reference = TORCH[optimizer](theirs.parameters(), lr=0.01, weight_decay=0.0)
    for number in range(4):
        reference.zero_grad()
        loss(theirs, number).backward()  # type: ignore[no-untyped-call]
        reference.step()
    ours.load_state_dict(theirs.state_dict())
    optimisation = Optimisation(ours, TrainSettings(optimizer=optimizer, learning_rate=0.01, weight_decay=0.0), ALONE)
    optimisation.load_state_dict(reference.state_dict())
    optimisation.step(loss(ours, 5))
    reference.zero_grad()
    loss(theirs, 5).backward()  # type: ignore[no-untyped-call]
    reference.step()
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


TRAINS = """
import sys, torch
from dmr.distributed.ranks import ALONE
from dmr.runs.optimisation import Optimisation
from dmr.settings import TrainSettings
layer = torch.nn.Linear(3, 2)
layer.encoder_parameters = lambda: {"a": list(layer.parameters())}
Optimisation(layer, TrainSettings(), ALONE).step(layer(torch.ones(1, 3)).sum())
sys.exit("torch._dynamo" in sys.modules)
"""


def test_no_compiler_is_loaded() -> None:
    """It would take seconds of every process."""
    subprocess.run([sys.executable, "-c", TRAINS], check=True)
