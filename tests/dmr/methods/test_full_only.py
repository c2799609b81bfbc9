from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from dmr.combinations import all_combinations
from dmr.methods.base import Components, MaskedBatch
from dmr.methods.dropout import Dropout, DropoutSettings
from dmr.methods.full_only import FullOnly, FullOnlySettings
from dmr.sampling import combination_probabilities, draw_combinations
from dmr.settings import SamplingSettings, Strategy

THREE = all_combinations(["m0", "m1", "m2"])


@pytest.mark.parametrize("strategy", ["uniform", "bernoulli", "by_size", "full_biased", "hardness"])
def test_it_always_sees_the_full_combination(make_parts: Callable[..., Components], strategy: Strategy) -> None:
    difficulty = torch.arange(7, 0, -1).double()
    probabilities = combination_probabilities(THREE, SamplingSettings(strategy=strategy), difficulty)
    before = probabilities.clone()
    full_only, dropout = FullOnly(FullOnlySettings(), make_parts()), Dropout(DropoutSettings(), make_parts())
    drawn = draw_combinations(full_only.drawn(probabilities, THREE), (2, 500), torch.Generator().manual_seed(0))
    assert (drawn == THREE.full).all()
    assert torch.equal(dropout.drawn(probabilities, THREE), before)


def test_it_is_evaluated_as_dropout_is(
    make_parts: Callable[..., Components], make_seen: Callable[..., MaskedBatch]
) -> None:
    full_only, dropout = FullOnly(FullOnlySettings(), make_parts()), Dropout(DropoutSettings(), make_parts())
    full_only.load_state_dict(dropout.state_dict())
    seen = make_seen(torch.tensor([[0, 3, 6, 2], [5, 4, 1, 6]]))
    one, other = (method.eval().predict(seen.features, seen.masks) for method in (full_only, dropout))
    assert torch.equal(one.logits, other.logits)
