from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dmr.methods.auxiliary_heads import AuxiliaryHeads, AuxiliaryHeadsSettings, masked_sum_of_means
from dmr.methods.base import Components, Features, MaskedBatch

MakeParts = Callable[..., Components]
MakeSeen = Callable[..., MaskedBatch]


def test_the_sum_of_means_by_hand() -> None:
    losses = torch.tensor([[1.0, 3.0, 8.0], [2.0, 5.0, torch.nan], [7.0, 7.0, 7.0]])
    there = torch.tensor([[True, True, False], [True, False, False], [False, False, False]])
    assert masked_sum_of_means(losses, there).item() == 4.0  # (1 + 3)/2 + 2 + nothing


HAS = torch.tensor([[True, False, False], [True, True, True], [True, True, True], [True, True, False]])


def features_of(seen: MaskedBatch, has: Tensor | None) -> MaskedBatch:
    """The same samples with every modality they have encoded, as `encodes_all` asks of the network."""
    contexts = [torch.randn_like(context) for context in seen.features.contexts]
    return seen._replace(features=Features(contexts, []), has=has)


@pytest.mark.parametrize("has", [None, HAS], ids=["complete", "incomplete"])
@pytest.mark.parametrize("positions", [(), (2, 3)])
def test_what_a_sample_has_counts_whatever_is_drawn(
    make_parts: MakeParts, make_seen: MakeSeen, positions: tuple[int, ...], has: Tensor | None
) -> None:
    method = AuxiliaryHeads(AuxiliaryHeadsSettings(auxiliary_weight=0.7, head_norm="layer"), make_parts())
    seen = features_of(make_seen(torch.tensor([[0, 3, 6, 0], [0, 4, 0, 1]]), positions=positions), has)
    got = method.losses(seen, torch.Generator())
    auxiliary = 0.0
    for m in range(3):
        losses = []
        for b in range(4):
            if has is None or has[b, m]:
                x = seen.features.contexts[m][b].reshape(-1, method.project[m].in_features)
                logits = method.shared_head.classify(method.project[m](x).mean(0))
                losses.append(F.cross_entropy(logits, seen.labels[b]).item())
        auxiliary += sum(losses) / len(losses)
    assert got.terms["auxiliary"].item() == pytest.approx(auxiliary, rel=1e-5)
    assert got.total.item() == pytest.approx(got.task.mean().item() + 0.7 * auxiliary, rel=1e-5)


def test_the_encoders_learn_from_modalities_that_are_not_drawn(make_network: Callable[..., Any]) -> None:
    """RFNet's and mmFormer's separate decoders are trained on every modality of every sample."""
    network, inputs, labels = make_network(AuxiliaryHeadsSettings())
    network.losses(inputs, labels, torch.zeros((1, 7), dtype=torch.int64), torch.Generator()).total.backward()
    for encoder in network.encoders:
        assert all(parameter.grad is not None for parameter in encoder.parameters())
        assert max(float(parameter.grad.abs().max()) for parameter in encoder.parameters()) > 0
    assert network.encoded == 3 * 7


def test_a_modality_that_nobody_has_gets_no_gradient(make_parts: MakeParts, make_seen: MakeSeen) -> None:
    method = AuxiliaryHeads(AuxiliaryHeadsSettings(), make_parts())
    has = torch.tensor([[True, False, True]]).expand(3, -1)
    method.losses(make_seen(torch.tensor([[0, 4, 0]]))._replace(has=has), torch.Generator()).total.backward()
    sizes = [own.weight.grad.abs().max().item() for own in method.project]
    assert sizes[0] > 0
    assert sizes[1] == 0
    assert sizes[2] > 0


def test_in_segmentation_a_single_modality_has_its_own_skips_alone(make_network: Callable[..., Any]) -> None:
    network, inputs, labels = make_network(AuxiliaryHeadsSettings(), "segmentation", samples=2)
    combination = torch.tensor([[6, 6]])
    losses = []
    for spoil in (False, True):
        features = network.encode(inputs)
        if spoil:
            features.contexts[2].fill_(3.0)
            for level in features.skips:
                level[2].fill_(3.0)
        seen = MaskedBatch(features, network.combinations[combination], combination, labels, inputs)
        losses.append(network.method.single_losses(seen))
    assert losses[0].shape == (3, 2)
    assert torch.equal(losses[0][:2], losses[1][:2])
    assert not torch.equal(losses[0][2], losses[1][2])


def test_the_auxiliary_heads_are_not_used_in_evaluation(make_parts: MakeParts, make_seen: MakeSeen) -> None:
    method, seen = AuxiliaryHeads(AuxiliaryHeadsSettings(), make_parts()).eval(), make_seen(torch.tensor([[0, 4, 6]]))
    before = method.predict(seen.features, seen.masks).logits
    with torch.no_grad():
        for own in (*method.project.parameters(), *method.shared_head.parameters()):
            own.fill_(9.0)
    assert torch.equal(method.predict(seen.features, seen.masks).logits, before)
