"""Sums over what is present against the plain path, which fuses every combination."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import dmr.methods.summed_heads
from dmr.data.dataset import Task
from dmr.fusion import FUSIONS, Fusion, FusionKind, FusionModule
from dmr.methods import METHODS
from dmr.methods.base import Components, Features, Prediction
from dmr.methods.dmrnet import DMRNetSettings
from dmr.methods.dropout import Dropout, DropoutSettings
from dmr.methods.heads import HeadNorm, Trunk

NORMS: list[HeadNorm] = ["none", "layer", "batch"]
NO_SUM = {"dedicated", "late_fusion_transformer", "unimodal_ensemble"}
OWN_FUSION = {"hemis", "shaspec", "simmlm"}  # those of the study file are not used

MakeNetwork = Callable[..., Any]


def trained(network: nn.Module) -> None:
    """Running statistics and parameters of batch normalisation as after some training."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_()
            module.running_var.uniform_(0.1, 3.0)
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)


def equal(found: Tensor | None, expected: Tensor | None) -> None:
    """A few roundings of float32 of the largest value."""
    assert found is not None
    assert expected is not None
    torch.testing.assert_close(found, expected, rtol=0.0, atol=1e-6 * float(expected.abs().max()))


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", METHODS)
@torch.no_grad()
def test_every_method_against_the_plain_path(
    make_network: MakeNetwork, monkeypatch: pytest.MonkeyPatch, name: str, norm: HeadNorm, fusion: FusionKind
) -> None:
    settings = replace(METHODS[name].Settings(), head_norm=norm)
    network, inputs, _ = make_network(settings, modalities=4, fusion=fusion)
    trained(network)
    summed = network.eval().method.summed()
    assert (summed is None) == (
        name in NO_SUM or (fusion in ("attention", "gated", "transformer") and name not in OWN_FUSION)
    )
    if summed is None:
        return
    monkeypatch.setattr(dmr.methods.summed_heads, "SUMMED_AT_ONCE", 4 * 7 * 16)  # four combinations of seven samples
    expected, contexts = network.predict(inputs, network.combinations), network.encode(inputs).contexts
    equal(summed.logits(contexts, network.combinations), expected.logits)
    some = network.combinations[[3, 9]]
    equal(summed.logits(contexts, some), expected.logits[[3, 9]])
    described = list(summed.described(contexts, network.combinations))
    if expected.embedding is None:
        assert described == []
        return
    assert [part.rows.start for part in described] == [0, 4, 8, 12]
    equal(torch.cat([part.embedding for part in described if part.embedding is not None]), expected.embedding)
    assert all((part.variance is None) == (expected.variance is None) for part in described)
    if expected.variance is not None:
        equal(torch.cat([part.variance for part in described if part.variance is not None]), expected.variance)


@torch.no_grad()
def test_a_fixed_variance_is_1(make_network: MakeNetwork) -> None:
    network, inputs, _ = make_network(DMRNetSettings(variance="fixed"))
    summed = network.eval().method.summed()
    (part,) = summed.described(network.encode(inputs).contexts, network.combinations)
    equal(part.variance, network.predict(inputs, network.combinations).variance)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", ["dmrnet", "dropout", "hemis", "shaspec", "simmlm"])
@torch.no_grad()
def test_maps_of_samples_with_one_class(make_parts: Callable[..., Components], name: str, norm: HeadNorm) -> None:
    """The mean over positions is taken before an affine map, and after a normalisation."""
    method = METHODS[name](replace(METHODS[name].Settings(), head_norm=norm), make_parts()).eval()
    trained(method)
    parts = make_parts()
    contexts = [torch.randn((5, 3, 2, width)) for width in parts.widths]
    masks = torch.from_numpy(parts.combinations.masks)
    summed = method.summed()
    assert summed is not None
    equal(
        summed.logits(contexts, masks), method.predict(Features(contexts, []), masks[:, None].expand(-1, 5, -1)).logits
    )


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("task", ["segmentation"])
def test_label_maps_are_no_sum(make_network: MakeNetwork, name: str, task: Task) -> None:
    assert make_network(METHODS[name].Settings(), task).network.eval().method.summed() is None


def test_layers_behind_the_fusion_are_no_sum(make_parts: Callable[..., Components]) -> None:
    parts = replace(make_parts(), trunk=lambda width: Trunk(nn.Conv1d(width, width, 1), width))
    assert Dropout(DropoutSettings(), parts).summed() is None


class Doubled(Fusion):
    def forward(self, features: Sequence[Tensor], masks: Tensor) -> Tensor:
        return 2.0 * super().forward(features, masks)


class Squared(Dropout):
    def predict_fused(self, fused: Tensor, features: Features, masks: Tensor) -> Prediction:
        return super().predict_fused(fused.square(), features, masks)


def test_a_method_or_fusion_of_somebodys_own_is_not_taken_for_ours(make_parts: Callable[..., Components]) -> None:
    parts = make_parts()
    assert Dropout(DropoutSettings(), parts).summed() is not None
    assert Dropout(DropoutSettings(), parts, Doubled(parts.widths, "concat")).summed() is None
    assert Squared(DropoutSettings(), parts).summed() is None
    assert not FusionModule().is_sum
