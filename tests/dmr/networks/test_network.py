from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import dmr.networks.network
from dmr.combinations import all_combinations
from dmr.data.dataset import MultimodalDataset
from dmr.encoders import EncoderSettings
from dmr.encoders.resnet import ResNet18Settings
from dmr.encoders.resnet18_se import ResNet18SESettings
from dmr.encoders.resnet_small import SmallResNetSettings
from dmr.fusion import FUSIONS
from dmr.methods import METHODS
from dmr.methods.base import Features, MaskedBatch
from dmr.networks.network import Network
from dmr.training import RunSettings, build_network

MakeDataset = Callable[..., MultimodalDataset]
MakeSettings = Callable[..., RunSettings]
KINDS = {"vector": (5,), "image": (3, 8, 8), "segmentation": ()}
HUGE = [1e30, -1e30, math.inf, math.nan]
WITH_FUSION = [*((method, "concat") for method in METHODS), *(("dmrnet", f) for f in FUSIONS if f != "concat")]
SEES_WHAT_IS_ABSENT = {"dedicated", "mmanet", "auxiliary_heads", "unimodal_ensemble", "mars"}
"""In training: the models of other combinations, the teacher, heads on all that a sample has, the complete pass."""


@pytest.fixture(params=KINDS)
def dataset(request: pytest.FixtureRequest, make_dataset: MakeDataset, make_maps: MakeDataset) -> MultimodalDataset:
    if request.param == "segmentation":
        return make_maps(3, train=12, val=2, size=(8, 8))
    return make_dataset(3, kind=request.param, shape=KINDS[request.param])


@pytest.fixture
def network(dataset: MultimodalDataset, make_settings: MakeSettings) -> Network:
    return build_network(dataset, make_settings(dataset, dropout=0.3))


def batch(dataset: MultimodalDataset, count: int = 12) -> dict[str, Tensor]:
    return {name: torch.from_numpy(array[:count]) for name, array in dataset.splits["train"].inputs.items()}


def labels_of(dataset: MultimodalDataset, count: int = 12) -> Tensor:
    return torch.from_numpy(dataset.splits["train"].labels[:count])


def some_masks(count: int, modalities: int = 3) -> Tensor:
    """(B, M) every non-empty combination in turn."""
    masks = torch.from_numpy(all_combinations([f"m{m}" for m in range(modalities)]).masks)
    return masks[torch.arange(count) % len(masks)]


def flat(features: Features, modality: int) -> list[Tensor]:
    """What the encoder of a modality has made, (B, ...) each."""
    return [features.contexts[modality], *(level[modality] for level in features.skips)]


def test_present_only_equals_everything_times_the_mask(dataset: MultimodalDataset, network: Network) -> None:
    network.eval()
    inputs, needed = batch(dataset), some_masks(12)
    everything, present = network.encode(inputs), network.encode(inputs, needed)
    assert len(everything.contexts) == 3
    assert len(everything.skips) == (2 if dataset.task == "segmentation" else 0)
    for m in range(3):
        for one, other in zip(flat(present, m), flat(everything, m), strict=True):
            mask = needed[:, m].view(-1, *[1] * (other.ndim - 1))
            torch.testing.assert_close(one, other * mask, rtol=1e-6, atol=1e-6)
            assert (one[~needed[:, m]] == 0).all()
            assert one[needed[:, m]].abs().sum() > 0


def test_encoding_all_that_is_needed_is_encoding_everything(dataset: MultimodalDataset, network: Network) -> None:
    network.eval()
    inputs = batch(dataset)
    everything, needed = network.encode(inputs), network.encode(inputs, torch.ones((12, 3), dtype=torch.bool))
    for m in range(3):
        for one, other in zip(flat(everything, m), flat(needed, m), strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize("method", [name for name in METHODS if name not in SEES_WHAT_IS_ABSENT])
def test_in_training_an_absent_input_changes_nothing(
    method: str, dataset: MultimodalDataset, make_settings: MakeSettings
) -> None:
    network = build_network(dataset, make_settings(dataset, METHODS[method].Settings(), dropout=0.3)).train()
    needed, combination = some_masks(12), torch.arange(12)[None] % 7

    def run(absent: float | None) -> tuple[Tensor, Tensor, list[Tensor | None]]:
        inputs = batch(dataset)
        if absent is not None:
            for m, name in enumerate(network.names):
                inputs[name] = inputs[name].clone()
                inputs[name][~needed[:, m]] = absent
        torch.manual_seed(0)
        network.zero_grad(set_to_none=True)
        losses = network.losses(inputs, labels_of(dataset), combination, torch.Generator().manual_seed(1))
        losses.total.backward()
        return losses.total.detach(), losses.task, [p.grad for p in network.parameters()]

    clean = run(None)
    for value in HUGE:
        spoiled = run(value)
        assert torch.equal(clean[0], spoiled[0])
        assert torch.equal(clean[1], spoiled[1])
        for one, other in zip(clean[2], spoiled[2], strict=True):
            assert one is not None
            assert other is not None
            assert torch.equal(one, other)


@pytest.mark.parametrize(("method", "fusion"), WITH_FUSION)
def test_in_evaluation_an_absent_modality_changes_nothing(
    method: str, fusion: str, dataset: MultimodalDataset, make_settings: MakeSettings
) -> None:
    settings = make_settings(dataset, METHODS[method].Settings(), dropout=0.3, fusion=fusion)
    network = build_network(dataset, settings).eval()
    masks, inputs = network.combinations, batch(dataset, 6)
    with torch.no_grad():
        clean = network.predict(inputs, masks)
        for spoiled, name in enumerate(network.names):
            without = ~masks[:, spoiled]
            for value in HUGE:
                after = network.predict(inputs | {name: torch.full_like(inputs[name], value)}, masks)
                assert torch.equal(clean.logits[without], after.logits[without])
                assert not torch.equal(clean.logits[~without], after.logits[~without])
                for one, other in ((clean.variance, after.variance), (clean.embedding, after.embedding)):
                    assert (one is None) == (other is None)
                    assert one is None or other is None or torch.equal(one[without], other[without])


@pytest.mark.parametrize("present", [0, 1])
def test_a_modality_of_one_sample_or_none(dataset: MultimodalDataset, network: Network, present: int) -> None:
    network.train()
    needed = torch.ones((4, 3), dtype=torch.bool)
    needed[present:, 1] = False
    features = network.encode(batch(dataset, 4), needed)
    shape = (4, 2, 2, 16) if dataset.task == "segmentation" else (4, 8)
    assert [tuple(f.shape) for f in features.contexts] == [shape] * 3
    for m in range(3):
        assert all(f.isfinite().all() for f in flat(features, m))
    assert all((f[present:] == 0).all() for f in flat(features, 1))
    combination = torch.full((1, 4), 4)
    seen = MaskedBatch(features, needed[None], combination, labels_of(dataset, 4), batch(dataset, 4))
    network.method.losses(seen, torch.Generator().manual_seed(0)).total.backward()
    gradients = [p.grad for p in network.encoders[1].parameters()]
    assert all((g is None) == (present == 0) for g in gradients)
    assert all(g is None or g.isfinite().all() for g in gradients)


@pytest.mark.parametrize("encoder", [ResNet18Settings(), ResNet18SESettings(), SmallResNetSettings(width=8)], ids=str)
@pytest.mark.parametrize("present", [0, 1])
@pytest.mark.parametrize("size", [4, 2])
def test_residual_networks_of_one_sample_or_none(
    size: int, present: int, encoder: EncoderSettings, make_dataset: MakeDataset, make_settings: MakeSettings
) -> None:
    """Batch normalisation has no statistics of one sample."""
    dataset = make_dataset(2, kind="image", shape=(1, 8, 8))
    network = build_network(dataset, make_settings(dataset, encoder=encoder)).train()
    before = {name: value.clone() for name, value in network.encoders[1].named_buffers()}
    combination = torch.zeros((1, size), dtype=torch.int64)
    combination[0, :present] = 2
    losses = network.losses(
        batch(dataset, size), labels_of(dataset, size), combination, torch.Generator().manual_seed(0)
    )
    losses.total.backward()
    assert losses.total.isfinite()
    assert losses.task.isfinite().all()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.encoders[0].parameters())
    gradients = [p.grad for p in network.encoders[1].parameters()]
    assert all((g is None) == (present == 0) for g in gradients)
    assert all(g is None or g.isfinite().all() for g in gradients)
    for name, value in network.encoders[1].named_buffers():
        assert value.isfinite().all(), name
        assert present or torch.equal(value, before[name]), name


@pytest.mark.parametrize("method", METHODS)
def test_prediction_in_pieces_is_prediction_at_once(
    method: str, dataset: MultimodalDataset, make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = build_network(dataset, make_settings(dataset, METHODS[method].Settings())).eval()
    masks, inputs = network.combinations, batch(dataset)
    with torch.no_grad():
        at_once = network.predict(inputs, masks)
        monkeypatch.setattr(dmr.networks.network, "EVALUATED_AT_ONCE", 1)
        in_pieces = network.predict(inputs, masks)
    assert at_once.logits.shape == (7, *labels_of(dataset).shape, 3)
    torch.testing.assert_close(at_once.logits, in_pieces.logits)
    for one, other in ((at_once.variance, in_pieces.variance), (at_once.embedding, in_pieces.embedding)):
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            assert one.shape[:2] == (7, 12)
            torch.testing.assert_close(one, other)


@pytest.mark.parametrize("method", [name for name in METHODS if not METHODS[name].own_encoders])
def test_prediction_is_that_of_each_combination_alone(
    method: str, dataset: MultimodalDataset, make_settings: MakeSettings
) -> None:
    network = build_network(dataset, make_settings(dataset, METHODS[method].Settings(), dropout=0.3)).eval()
    inputs = batch(dataset)
    together = network.predict(inputs, network.combinations).logits
    for c, mask in enumerate(network.combinations):
        needed = mask.expand(12, 3)
        alone = network.method.predict(network.encode(inputs, needed), needed[None]).logits[0]
        torch.testing.assert_close(together[c], alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_one_image_a_modality_is_predicted_as_in_a_batch(
    method: str, dataset: MultimodalDataset, make_settings: MakeSettings
) -> None:
    network = build_network(dataset, make_settings(dataset, METHODS[method].Settings())).eval()
    together = network.predict(batch(dataset), network.combinations).logits
    alone = network.predict(batch(dataset, 1), network.combinations).logits
    torch.testing.assert_close(together[:, :1], alone, rtol=1e-5, atol=1e-5)
