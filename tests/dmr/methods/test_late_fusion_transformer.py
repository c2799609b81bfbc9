from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from dmr.methods.dropout import DropoutSettings
from dmr.methods.late_fusion_transformer import LateFusionTransformerSettings


def test_it_is_dropout_on_the_transformer_fusion(make_network: Callable[..., Any]) -> None:
    own, inputs, _ = make_network(LateFusionTransformerSettings())
    dropout = make_network(DropoutSettings(), fusion="transformer").network
    assert own.state_dict().keys() == dropout.state_dict().keys()
    found, expected = (network.eval().predict(inputs, network.combinations) for network in (own, dropout))
    assert torch.equal(found.logits, expected.logits)


@pytest.mark.parametrize(("layers", "heads"), [(1, 2), (3, 1)])
def test_its_layers_and_heads_are_keys(make_network: Callable[..., Any], layers: int, heads: int) -> None:
    fusion = make_network(LateFusionTransformerSettings(layers=layers, heads=heads)).network.method.fusion
    assert [layer.self_attn.num_heads for layer in fusion.encoder.layers] == [heads] * layers
