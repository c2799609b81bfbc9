"""What every method owes on every kind of features: a new method is covered by its line in METHODS."""

from __future__ import annotations

import copy
import dataclasses
import io
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dmr.combinations import all_combinations
from dmr.data.dataset import MultimodalDataset
from dmr.encoders import ENCODERS, EncoderModule, EncoderSettings, Trunk
from dmr.encoders.resnet18_se import ResNet18SESettings
from dmr.methods import METHODS, MethodSettings
from dmr.methods.base import StepLosses
from dmr.networks.network import Network
from dmr.settings import SamplingSettings, TrainSettings
from dmr.training import RunSettings, build_network

MakeDataset = Callable[..., MultimodalDataset]
MakeSettings = Callable[..., RunSettings]
Early = Callable[..., MethodSettings]
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
EPOCHS = 4  # every phase of a method comes within these


class SmallMap(EncoderModule):
    """(B, C, H, W) → (B, 6, H/2, W/2), and a trunk that halves H and W again."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.widths = (6,)
        self.layers = nn.Sequential(nn.Conv2d(shape[0], 6, 3, stride=2, padding=1), nn.Tanh())

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return (self.layers(x),)

    def trunk(self, in_width: int) -> Trunk:
        return SmallTrunk(in_width)


class SmallTrunk(Trunk):
    """(N, in_width, H, W) → (N, 10, H/2, W/2)."""

    def __init__(self, in_width: int) -> None:
        super().__init__()
        self.width = 10
        self.layers = nn.Sequential(nn.Conv2d(in_width, 10, 3, stride=2, padding=1), nn.Tanh())

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layers(x)
        return out


@dataclasses.dataclass(frozen=True)
class SmallMapSettings(EncoderSettings):
    Module = SmallMap
    dimensions = 3


CASES: dict[str, dict[str, Any]] = {
    "vectors": {"kind": "vector", "shape": (5,)},
    "images": {"kind": "image", "shape": (3, 8, 8)},
    "maps": {"kind": "image", "shape": (3, 8, 8)},
    "segmentation": {},
}
GRID = [("vectors", 2), ("vectors", 3), ("vectors", 5), *((case, m) for case in list(CASES)[1:] for m in (2, 3))]


@dataclasses.dataclass(frozen=True)
class Subject:
    """A method on an encoder and M modalities, and as many samples as there are combinations."""

    network: Network
    inputs: dict[str, Tensor]
    labels: Tensor
    num_classes: int = 3

    def step(self, combination: Tensor, seed: int = 0) -> StepLosses:
        """Losses of the first B samples, seen with `combination` (K, B)."""
        count = combination.shape[1]
        inputs = {name: x[:count] for name, x in self.inputs.items()}
        return self.network.losses(inputs, self.labels[:count], combination, torch.Generator().manual_seed(seed))

    @property
    def count(self) -> int:
        """How many combinations there are, and samples."""
        return len(self.network.combinations)

    @property
    def each(self) -> Tensor:
        """(1, C) every combination in turn."""
        return torch.arange(self.count)[None]

    def epochs(self, combination: Tensor) -> Iterator[tuple[int, StepLosses]]:
        """Epochs of one step each, through all of the method's phases."""
        combinations = all_combinations(self.network.names)
        for epoch in range(EPOCHS):
            self.network.train()
            self.network.method.start_epoch(epoch, combinations, torch.Generator().manual_seed(epoch))
            losses = self.step(combination, epoch)
            yield epoch, losses
            self.network.method.end_epoch(epoch, sums_of(losses, len(combinations)))


def sums_of(losses: StepLosses, count: int) -> Tensor:
    """(3, C) as training makes them."""
    sums = torch.zeros((3, count), dtype=torch.float64)
    variance = torch.zeros_like(losses.task) if losses.variance is None else losses.variance
    for row, values in zip(sums, (losses.task, variance, torch.ones_like(losses.task)), strict=True):
        row.index_add_(0, losses.combination.flatten(), values.double().flatten())
    return sums


def subject_of(dataset: MultimodalDataset, settings: RunSettings) -> Subject:
    train = dataset.splits["train"]
    inputs = {name: torch.from_numpy(array) for name, array in train.inputs.items()}
    return Subject(build_network(dataset, settings).train(), inputs, torch.from_numpy(train.labels))


@pytest.fixture(params=METHODS)
def method(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=GRID, ids=[f"{case}-{modalities}" for case, modalities in GRID])
def dataset(request: pytest.FixtureRequest, make_dataset: MakeDataset, make_maps: MakeDataset) -> MultimodalDataset:
    case, modalities = request.param
    make = make_maps if case == "segmentation" else make_dataset
    return dataclasses.replace(make(modalities, train=2**modalities - 1, val=2, **CASES[case]), name=case)


@pytest.fixture
def subject(method: str, dataset: MultimodalDataset, make_settings: MakeSettings, early: Early) -> Subject:
    encoder = SmallMapSettings() if dataset.name == "maps" else None
    return subject_of(dataset, make_settings(dataset, early(METHODS[method]), dropout=0.2, encoder=encoder))


def check_losses(losses: StepLosses) -> None:
    assert losses.total.shape == ()
    assert losses.total.isfinite()
    assert losses.total.requires_grad
    assert losses.task.isfinite().all()
    assert not losses.task.requires_grad
    assert losses.combination.shape == losses.task.shape
    assert losses.combination.dtype == torch.int64
    if losses.variance is not None:
        assert losses.variance.shape == losses.task.shape
        assert (losses.variance >= 0).all()
        assert not losses.variance.requires_grad
    for name, part in losses.terms.items():
        assert part.shape == (), name
        assert part.isfinite(), name
        assert not part.requires_grad, name


def check_gradients(network: Network) -> set[str]:
    """The parameters that have a gradient."""
    gradients = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
    assert gradients
    assert all(gradient.isfinite().all() for gradient in gradients.values())
    return {name for name, gradient in gradients.items() if gradient.ndim < 2 or gradient.abs().max() > 0}


def test_losses_are_finite_and_shaped(subject: Subject) -> None:
    """A method may see samples with further combinations; one with its own encoders, with others than those drawn."""
    for repeats in (1, 3):
        combination = torch.stack([torch.arange(subject.count).roll(k) for k in range(repeats)])
        losses = subject.step(combination)
        check_losses(losses)
        assert losses.task.shape[1] == subject.count
        if not subject.network.method.own_encoders:
            assert torch.equal(losses.combination[:repeats], combination)
        assert (losses.combination >= 0).all()
        assert (losses.combination < subject.count).all()


def test_epochs_of_all_combinations_reach_every_parameter(method: str, subject: Subject) -> None:
    reached = []
    for _, losses in subject.epochs(subject.each):
        check_losses(losses)
        subject.network.zero_grad(set_to_none=True)
        losses.total.backward()
        reached.append(check_gradients(subject.network))
    everything = {name for name, _ in subject.network.named_parameters()}
    teacher = {name for name in everything if ".teacher." in name}
    assert bool(teacher) == (method == "mmanet")
    assert reached == [everything - teacher] * EPOCHS


def test_every_single_combination_in_a_batch_of_two(subject: Subject) -> None:
    for _ in subject.epochs(subject.each):  # whatever phase comes last
        pass
    for c in range(subject.count):
        subject.network.zero_grad(set_to_none=True)
        losses = subject.step(torch.full((1, 2), c))
        losses.total.backward()
        assert losses.total.isfinite(), c
        check_gradients(subject.network)


def test_batches_that_lack_a_combination(subject: Subject) -> None:
    """The one that is lacking is never hard: nothing is known of it."""
    for lacking in (0, subject.count - 1):
        combination = torch.where(subject.each == lacking, (lacking + 1) % subject.count, subject.each)
        for _, losses in subject.epochs(combination):
            check_losses(losses)
            losses.total.backward()
            check_gradients(subject.network)


@pytest.mark.parametrize("dataset", [("vectors", 5), *((case, 2) for case in CASES)], indirect=True, ids=str)
def test_an_optimiser_makes_the_loss_smaller(subject: Subject) -> None:
    optimizer = torch.optim.Adam(subject.network.parameters(), lr=1e-2)
    before = torch.stack([subject.step(subject.each, seed).task.mean() for seed in range(5)]).mean()
    for seed in range(40):
        optimizer.zero_grad()
        subject.step(subject.each, seed).total.backward()
        optimizer.step()
    after = torch.stack([subject.step(subject.each, seed).task.mean() for seed in range(5)]).mean()
    assert after < 0.8 * before


def test_noise_comes_from_the_generator(subject: Subject) -> None:
    for module in subject.network.modules():
        if isinstance(module, EncoderModule):
            module.eval()  # dropout is the encoders' own affair, and takes torch's global generator
    torch.manual_seed(1)
    one = subject.step(subject.each, seed=3)
    torch.manual_seed(2)
    other = subject.step(subject.each, seed=3)
    assert torch.equal(one.total, other.total)
    assert torch.equal(one.task, other.task)
    assert torch.equal(one.combination, other.combination)


def test_encoding_what_is_present_gives_the_losses_of_encoding_everything(
    method: str, dataset: MultimodalDataset, make_settings: MakeSettings, early: Early, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = SmallMapSettings() if dataset.name == "maps" else None
    present, everything = (
        subject_of(dataset, make_settings(dataset, early(METHODS[method]), encoder=encoder)) for _ in range(2)
    )
    everything.network.load_state_dict(present.network.state_dict())
    encode = everything.network.encode
    monkeypatch.setattr(everything.network, "encode", lambda inputs, *needed: encode(inputs))
    combination = torch.stack([present.each[0], present.each[0].roll(1)])
    pairs = zip(present.epochs(combination), everything.epochs(combination), strict=True)
    for (epoch, one), (_, other) in pairs:
        torch.testing.assert_close(one.total, other.total, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(one.task, other.task, rtol=1e-5, atol=1e-5)
        for subject, losses in ((present, one), (everything, other)):
            subject.network.zero_grad(set_to_none=True)
            losses.total.backward()
        for (name, p), q in zip(present.network.named_parameters(), everything.network.parameters(), strict=True):
            if p.grad is not None and q.grad is not None:
                torch.testing.assert_close(p.grad, q.grad, rtol=1e-3, atol=1e-5, msg=f"{name}, epoch {epoch}")
            assert (p.grad is None) == (q.grad is None), name


def test_prediction_is_deterministic_and_shaped(subject: Subject) -> None:
    subject.step(subject.each)  # running statistics of the heads
    network, count = subject.network.eval(), subject.count
    torch.manual_seed(1)
    one = network.predict(subject.inputs, network.combinations)
    torch.manual_seed(2)
    other = network.predict(subject.inputs, network.combinations)
    assert one.logits.shape == (count, *subject.labels.shape, subject.num_classes)
    assert one.logits.isfinite().all()
    assert torch.equal(one.logits, other.logits)
    assert (one.variance is None) == (other.variance is None)
    assert (one.embedding is None) == (other.embedding is None)
    if one.variance is not None and other.variance is not None:
        assert one.variance.shape == (count, count)
        assert torch.equal(one.variance, other.variance)
    if one.embedding is not None and other.embedding is not None:
        assert one.embedding.ndim == 3
        assert one.embedding.shape[:2] == (count, count)
        assert torch.equal(one.embedding, other.embedding)


def test_a_state_dict_carries_the_network(subject: Subject) -> None:
    for _ in subject.epochs(subject.each):
        pass
    network = subject.network
    file = io.BytesIO()
    torch.save(network.state_dict(), file)
    file.seek(0)
    again = dataclasses.replace(subject, network=_rebuilt(network))
    again.network.load_state_dict(torch.load(file, weights_only=True))
    for mode in (True, False):
        for module in (network, again.network):
            module.train(mode)
        torch.manual_seed(1)
        one = subject.step(subject.each)
        torch.manual_seed(1)
        other = again.step(subject.each)
        assert torch.equal(one.total, other.total)
        assert torch.equal(one.task, other.task)
    one_hard, other_hard = network.method.hard_combinations(), again.network.method.hard_combinations()
    assert (one_hard is None) == (other_hard is None)
    assert one_hard is None or other_hard is None or torch.equal(one_hard, other_hard)


def _rebuilt(network: Network) -> Network:
    """The same network with every parameter and buffer spoiled."""
    again = copy.deepcopy(network)
    with torch.no_grad():
        for tensor in again.state_dict().values():
            tensor.fill_(1)
    return again


def test_on_the_published_maps_with_shared_layers(
    method: str, make_dataset: MakeDataset, make_settings: MakeSettings, early: Early
) -> None:
    dataset = make_dataset(2, train=3, val=2, kind="image", shape=(1, 16, 16))
    subject = subject_of(dataset, make_settings(dataset, early(METHODS[method]), encoder=ResNet18SESettings()))
    reached: set[str] = set()
    for _, losses in subject.epochs(subject.each):
        check_losses(losses)
        losses.total.backward()
        reached |= check_gradients(subject.network)
    assert reached == {name for name, p in subject.network.named_parameters() if p.requires_grad}
    found = subject.network.eval().predict(subject.inputs, subject.network.combinations)
    assert found.logits.shape == (3, 3, 3)
    assert found.logits.isfinite().all()


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
