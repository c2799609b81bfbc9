from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import dmr.networks
from dmr.combinations import all_combinations
from dmr.data.dataset import MultimodalDataset
from dmr.methods import METHODS
from dmr.networks import Network
from dmr.training import RunSettings, build_network

MakeDataset = Callable[..., MultimodalDataset]
MakeSettings = Callable[..., RunSettings]
KINDS = [("vector", (5,)), ("image", (3, 8, 8))]
HUGE = [1e30, -1e30, math.inf, math.nan]


@pytest.fixture(params=KINDS, ids=[kind for kind, _ in KINDS])
def dataset(request: pytest.FixtureRequest, make_dataset: MakeDataset) -> MultimodalDataset:
    kind, shape = request.param
    return make_dataset(3, kind=kind, shape=shape)


@pytest.fixture
def network(dataset: MultimodalDataset, make_settings: MakeSettings) -> Network:
    return build_network(dataset, make_settings(dataset, dropout=0.3))


def batch(dataset: MultimodalDataset, count: int = 12) -> dict[str, Tensor]:
    return {name: torch.from_numpy(array[:count]) for name, array in dataset.splits["train"].inputs.items()}


def some_masks(count: int, modalities: int = 3) -> Tensor:
    """(B, M) every non-empty combination in turn."""
    masks = torch.from_numpy(all_combinations([f"m{m}" for m in range(modalities)]).masks)
    return masks[torch.arange(count) % len(masks)]


def test_present_only_equals_everything_times_the_mask(dataset: MultimodalDataset, network: Network) -> None:
    network.eval()
    inputs, needed = batch(dataset), some_masks(12)
    everything = network.encode(inputs)
    for m, features in enumerate(network.encode(inputs, needed)):
        torch.testing.assert_close(features, everything[m] * needed[:, m : m + 1], rtol=1e-6, atol=1e-6)
        assert (features[~needed[:, m]] == 0).all()
        assert features[needed[:, m]].abs().sum() > 0


def test_encoding_all_that_is_needed_is_encoding_everything(dataset: MultimodalDataset, network: Network) -> None:
    network.eval()
    inputs = batch(dataset)
    for one, other in zip(
        network.encode(inputs), network.encode(inputs, torch.ones((12, 3), dtype=torch.bool)), strict=True
    ):
        assert torch.equal(one, other)


@pytest.mark.parametrize("value", HUGE)
def test_in_training_an_absent_input_changes_nothing(
    dataset: MultimodalDataset, network: Network, value: float
) -> None:
    network.train()
    needed = some_masks(12)
    masks = needed[None]

    def run(absent: float | None) -> tuple[Tensor, list[Tensor | None]]:
        inputs = batch(dataset)
        if absent is not None:
            for m, name in enumerate(network.names):
                inputs[name] = inputs[name].clone()
                inputs[name][~needed[:, m]] = absent
        torch.manual_seed(0)
        network.zero_grad(set_to_none=True)
        fused = network.fuse(network.encode(inputs, needed), masks)
        losses = network.method.losses(
            fused, torch.arange(12) % 3, torch.arange(12)[None] % 7, torch.Generator().manual_seed(1)
        )
        losses.total.backward()
        return fused.detach(), [p.grad for p in network.parameters()]

    clean, clean_gradients = run(None)
    spoiled, spoiled_gradients = run(value)
    assert torch.equal(clean, spoiled)
    for one, other in zip(clean_gradients, spoiled_gradients, strict=True):
        assert one is not None
        assert other is not None
        assert torch.equal(one, other)


@pytest.mark.parametrize("value", HUGE)
@pytest.mark.parametrize("spoiled", range(3))
def test_in_evaluation_an_absent_modality_changes_nothing(
    dataset: MultimodalDataset, network: Network, spoiled: int, value: float
) -> None:
    network.eval()
    masks = torch.from_numpy(all_combinations(network.names).masks)
    inputs = batch(dataset)
    clean = network.predict(network.encode(inputs), masks)
    changed = inputs | {network.names[spoiled]: torch.full_like(inputs[network.names[spoiled]], value)}
    after = network.predict(network.encode(changed), masks)
    without = ~masks[:, spoiled]
    assert torch.equal(clean.logits[without], after.logits[without])
    assert not torch.equal(clean.logits[~without], after.logits[~without])
    assert clean.variance is not None
    assert after.variance is not None
    assert torch.equal(clean.variance[without], after.variance[without])


@pytest.mark.parametrize("present", [0, 1])
def test_a_modality_of_one_sample_or_none(dataset: MultimodalDataset, network: Network, present: int) -> None:
    network.train()
    needed = torch.ones((4, 3), dtype=torch.bool)
    needed[present:, 1] = False
    features = network.encode(batch(dataset, 4), needed)
    assert [tuple(f.shape) for f in features] == [(4, 8)] * 3
    assert (features[1][present:] == 0).all()
    assert all(f.isfinite().all() for f in features)
    labels, combination = torch.tensor([0, 1, 2, 0]), torch.full((1, 4), 4)
    network.method.losses(
        network.fuse(features, needed[None]), labels, combination, torch.Generator().manual_seed(0)
    ).total.backward()
    gradients = [p.grad for p in network.encoders[1].parameters()]
    assert all((g is None) == (present == 0) for g in gradients)
    assert all(g is None or g.isfinite().all() for g in gradients)


def test_fusion_by_hand(network: Network) -> None:
    features = [torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[-5.0], [6.0]])]
    masks = torch.tensor([[[True, True], [True, False]], [[False, True], [True, True]]])
    assert network.fuse(features, masks).tolist() == [
        [[1, 2, -5], [3, 4, 0]],
        [[0, 0, -5], [3, 4, 6]],
    ]
    assert network.fuse(features, torch.tensor([[[True, False]]])).tolist() == [[[1, 2, 0], [3, 4, 0]]]


@pytest.mark.parametrize("method", METHODS)
def test_prediction_in_pieces_is_prediction_at_once(
    method: str, make_dataset: MakeDataset, make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = make_dataset(3)
    network = build_network(dataset, make_settings(dataset, METHODS[method].Settings())).eval()
    masks = torch.from_numpy(all_combinations(network.names).masks)
    features = network.encode(batch(dataset))
    at_once = network.predict(features, masks)
    monkeypatch.setattr(dmr.networks, "EVALUATED_AT_ONCE", 1)
    in_pieces = network.predict(features, masks)
    assert at_once.logits.shape == (7, 12, 3)
    torch.testing.assert_close(at_once.logits, in_pieces.logits)
    assert (at_once.variance is None) == (in_pieces.variance is None)
    if at_once.variance is not None and in_pieces.variance is not None:
        assert at_once.variance.shape == (7, 12)
        torch.testing.assert_close(at_once.variance, in_pieces.variance)


def test_prediction_is_that_of_each_combination_alone(dataset: MultimodalDataset, network: Network) -> None:
    network.eval()
    combinations = all_combinations(network.names)
    inputs = batch(dataset)
    together = network.predict(network.encode(inputs), torch.from_numpy(combinations.masks)).logits
    for c, mask in enumerate(combinations.masks):
        needed = torch.from_numpy(mask).expand(12, 3)
        fused = network.fuse(network.encode(inputs, needed), needed[None])
        torch.testing.assert_close(together[c], network.method.predict(fused).logits[0], rtol=1e-5, atol=1e-5)
