"""What every method owes with every encoder: a new method is covered by its line in METHODS, an encoder by one here."""

from __future__ import annotations

import copy
import dataclasses
import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from dmr.combinations import all_combinations
from dmr.data.dataset import MultimodalDataset
from dmr.encoders import ENCODERS
from dmr.methods import METHODS, StepLosses
from dmr.networks import Network
from dmr.settings import SamplingSettings, TrainSettings
from dmr.training import RunSettings, build_network

MakeDataset = Callable[..., MultimodalDataset]
MakeSettings = Callable[..., RunSettings]
INPUTS: dict[str, dict[str, Any]] = {
    "mlp": {"kind": "vector", "shape": (5,)},
    "cnn": {"kind": "image", "shape": (3, 8, 8)},
}
SETTINGS = {
    **{f"method {name}": method.Settings for name, method in METHODS.items()},
    **{f"encoder {name}": settings for name, settings in ENCODERS.items()},
    "sampling": SamplingSettings,
    "train": TrainSettings,
}
MEETS = {
    "gt": lambda value, limit: value > limit,
    "ge": lambda value, limit: value >= limit,
    "lt": lambda value, limit: value < limit,
    "le": lambda value, limit: value <= limit,
}


@dataclasses.dataclass(frozen=True)
class Subject:
    """A method on an encoder and M modalities, and samples seen with every combination in turn."""

    network: Network
    inputs: dict[str, Tensor]
    labels: Tensor
    masks: Tensor

    def step(self, combination: Tensor, seed: int = 0) -> StepLosses:
        """Losses of the first B samples, seen with `combination` (K, B)."""
        count = combination.shape[1]
        masks = self.masks[combination]
        features = self.network.encode({n: x[:count] for n, x in self.inputs.items()}, masks.any(0))
        noise = torch.Generator().manual_seed(seed)
        return self.network.method.losses(self.network.fuse(features, masks), self.labels[:count], combination, noise)


@pytest.fixture(params=[2, 3, 5])
def modalities(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture(params=ENCODERS)
def encoder(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=METHODS)
def subject(
    request: pytest.FixtureRequest,
    encoder: str,
    modalities: int,
    make_dataset: MakeDataset,
    make_settings: MakeSettings,
) -> Subject:
    combinations = all_combinations([f"m{m}" for m in range(modalities)])
    dataset = make_dataset(modalities, train=len(combinations), **INPUTS[encoder])
    network = build_network(dataset, make_settings(dataset, METHODS[request.param].Settings(), dropout=0.2))
    train = dataset.splits["train"]
    inputs = {name: torch.from_numpy(array) for name, array in train.inputs.items()}
    return Subject(network.train(), inputs, torch.from_numpy(train.labels), torch.from_numpy(combinations.masks))


@pytest.mark.parametrize("repeats", [1, 3])
def test_losses_are_finite_and_shaped(subject: Subject, repeats: int) -> None:
    count = len(subject.masks)
    combination = torch.stack([torch.arange(count).roll(k) for k in range(repeats)])
    losses = subject.step(combination)
    assert losses.total.shape == ()
    assert losses.total.isfinite()
    assert losses.total.requires_grad
    assert losses.task.shape == (repeats, count)
    assert losses.task.isfinite().all()
    assert not losses.task.requires_grad
    if losses.variance is not None:
        assert losses.variance.shape == (repeats, count)
        assert (losses.variance >= 0).all()
        assert not losses.variance.requires_grad
    for name, part in losses.parts.items():
        assert part.shape == (), name
        assert part.isfinite(), name
        assert not part.requires_grad, name


def test_an_epoch_of_all_combinations_reaches_every_parameter(subject: Subject) -> None:
    combinations = all_combinations(subject.network.names)
    subject.network.method.start_epoch(0, combinations, torch.Generator().manual_seed(0))
    subject.step(torch.arange(len(subject.masks))[None]).total.backward()
    for name, parameter in subject.network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.ndim < 2 or parameter.grad.abs().max() > 0, name


def test_every_single_combination_in_a_batch_of_two(subject: Subject) -> None:
    for c in range(len(subject.masks)):
        subject.network.zero_grad(set_to_none=True)
        losses = subject.step(torch.full((1, 2), c))
        losses.total.backward()
        assert losses.total.isfinite(), c
        gradients = [p.grad for p in subject.network.parameters() if p.grad is not None]
        assert gradients
        assert all(g.isfinite().all() for g in gradients), c


def test_an_optimiser_makes_the_loss_smaller(subject: Subject) -> None:
    combination = torch.arange(len(subject.masks))[None]
    optimizer = torch.optim.Adam(subject.network.parameters(), lr=1e-2)
    before = torch.stack([subject.step(combination, seed).task.mean() for seed in range(5)]).mean()
    for seed in range(40):
        optimizer.zero_grad()
        subject.step(combination, seed).total.backward()
        optimizer.step()
    after = torch.stack([subject.step(combination, seed).task.mean() for seed in range(5)]).mean()
    assert after < 0.8 * before


def test_noise_comes_from_the_generator(subject: Subject) -> None:
    subject.network.encoders.eval()  # dropout is the encoders' own affair, and takes torch's global generator
    combination = torch.arange(len(subject.masks))[None]
    torch.manual_seed(1)
    one = subject.step(combination, seed=3)
    torch.manual_seed(2)
    other = subject.step(combination, seed=3)
    assert torch.equal(one.total, other.total)
    assert torch.equal(one.task, other.task)


def test_prediction_is_deterministic_and_shaped(subject: Subject) -> None:
    subject.step(torch.arange(len(subject.masks))[None])  # running statistics of the heads
    network = subject.network.eval()
    torch.manual_seed(1)
    one = network.predict(network.encode(subject.inputs), subject.masks)
    torch.manual_seed(2)
    other = network.predict(network.encode(subject.inputs), subject.masks)
    count = len(subject.masks)
    assert one.logits.shape == (count, count, 3)
    assert one.logits.isfinite().all()
    assert torch.equal(one.logits, other.logits)
    if one.variance is not None:
        assert other.variance is not None
        assert one.variance.shape == (count, count)
        assert torch.equal(one.variance, other.variance)


def test_a_state_dict_carries_the_network(subject: Subject) -> None:
    network = subject.network
    combinations = all_combinations(network.names)
    for epoch in range(8):
        network.method.start_epoch(epoch, combinations, torch.Generator().manual_seed(epoch))
        network.method.end_epoch(epoch, 1 + torch.rand((3, len(combinations)), dtype=torch.float64))
    subject.step(torch.arange(len(subject.masks))[None])
    file = io.BytesIO()
    torch.save(network.state_dict(), file)
    file.seek(0)
    again = Subject(_rebuilt(network), subject.inputs, subject.labels, subject.masks)
    again.network.load_state_dict(torch.load(file, weights_only=True))
    for mode in (True, False):
        network.encoders.eval()
        again.network.encoders.eval()
        network.method.train(mode)
        again.network.method.train(mode)
        combination = torch.arange(len(subject.masks))[None]
        assert torch.equal(subject.step(combination).total, again.step(combination).total)


def _rebuilt(network: Network) -> Network:
    """The same network with every parameter and buffer spoiled."""
    again = copy.deepcopy(network)
    with torch.no_grad():
        for tensor in again.state_dict().values():
            tensor.fill_(1)
    return again


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_have_sane_limits(name: str) -> None:
    defaults = SETTINGS[name]()
    for field in dataclasses.fields(defaults):
        value = getattr(defaults, field.name)
        assert set(field.metadata) <= set(MEETS), field.name
        if isinstance(value, str | bool):
            assert not field.metadata, field.name
        elif value is not None:
            assert field.metadata, f"{field.name}: a number needs limits"
            assert all(MEETS[limit](value, bound) for limit, bound in field.metadata.items()), field.name
    with pytest.raises(dataclasses.FrozenInstanceError, match="cannot assign to field"):
        setattr(defaults, dataclasses.fields(defaults)[0].name, None)


@pytest.mark.parametrize("name", METHODS)
def test_the_search_space_is_of_the_methods_own_settings(name: str) -> None:
    method = METHODS[name]
    fields = {f"model.{field.name}": field for field in dataclasses.fields(method.Settings)}
    for key, distribution in method.search_space.items():
        assert key in fields
        ((kind, values),) = distribution.items()
        assert kind in {"uniform", "log_uniform", "choice", "int", "log_int"}
        for value in values:
            assert all(MEETS[limit](value, bound) for limit, bound in fields[key].metadata.items()), (key, value)


def test_every_encoder_has_inputs_to_be_tested_with() -> None:
    assert set(INPUTS) == set(ENCODERS)
