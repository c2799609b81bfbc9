from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

from dmr.methods.base import Components, MaskedBatch
from dmr.methods.dmrnet import DMRNet, DMRNetSettings
from dmr.methods.dropout import Dropout, DropoutSettings

MakeParts = Callable[..., Components]
MakeSeen = Callable[..., MaskedBatch]
COMBINATION = torch.tensor([[0, 3, 6, 2], [5, 4, 1, 6]])


def test_the_loss_is_cross_entropy_at_the_drawn_combination(make_parts: MakeParts, make_seen: MakeSeen) -> None:
    method, seen = Dropout(DropoutSettings(head_norm="none"), make_parts()), make_seen(COMBINATION)
    got = method.losses(seen, torch.Generator())
    for k, b in itertools.product(range(2), range(4)):
        fused = torch.cat([x[b] * float(seen.masks[k, b, m]) for m, x in enumerate(seen.features.contexts)])
        logits = method.head.classify(method.embed.linear(fused))
        assert got.task[k, b].item() == pytest.approx(F.cross_entropy(logits, seen.labels[b]).item(), rel=1e-5)
    assert got.total.item() == pytest.approx(got.task.mean().item())
    assert got.terms.keys() == {"task"}
    assert got.variance is None


def test_it_is_dmrnet_without_noise_kl_and_hard_term(make_parts: MakeParts, make_seen: MakeSeen) -> None:
    settings = DMRNetSettings(noise_scale=0.0, kl_weight=0.0, hard_weight=0.0)
    dmrnet, dropout = DMRNet(settings, make_parts()), Dropout(DropoutSettings(), make_parts())
    dropout.embed.load_state_dict(dmrnet.mean.state_dict())
    dropout.head.load_state_dict(dmrnet.head.state_dict())
    seen = make_seen(COMBINATION)
    one, other = dmrnet.losses(seen, torch.Generator()), dropout.losses(seen, torch.Generator())
    assert torch.equal(one.task, other.task)
    assert one.total.item() == pytest.approx(other.total.item())


def test_every_embedding_has_one_width(make_parts: MakeParts, make_seen: MakeSeen) -> None:
    seen = make_seen(COMBINATION)
    for fusion in ("concat", "mean", "attention"):
        found = Dropout(DropoutSettings(), make_parts(fusion=fusion)).predict(seen.features, seen.masks)
        assert found.embedding is not None
        assert found.embedding.shape == (2, 4, 12)
