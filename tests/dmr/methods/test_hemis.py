from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch

from dmr.combinations import all_combinations
from dmr.methods.base import Components, MaskedBatch
from dmr.methods.hemis import HeMIS, HeMISSettings, Moments, moments

MASKS = torch.from_numpy(all_combinations(["a", "b", "c"]).masks)[:, None].expand(-1, 2, -1)  # (7, B = 2, 3)


def test_moments_by_hand() -> None:
    features = [torch.tensor([[1.0, 5.0]]), torch.tensor([[3.0, 5.0]]), torch.tensor([[8.0, 2.0]])]
    masks = torch.tensor([[[True, True, False]], [[True, True, True]], [[False, False, True]]])
    mean, variance = moments(masks, features)
    assert mean.tolist() == [[[2.0, 5.0]], [[4.0, 4.0]], [[8.0, 2.0]]]
    # ((−1)² + 1²)/1 and 0; (9 + 1 + 16)/2 and (1 + 1 + 4)/2; of one 0
    assert variance.tolist() == [[[2.0, 0.0]], [[13.0, 3.0]], [[0.0, 0.0]]]


@pytest.mark.parametrize("positions", [(), (2, 3)])
def test_moments_against_numpy(positions: tuple[int, ...]) -> None:
    features = [torch.randn((2, *positions, 4)) for _ in range(3)]
    mean, variance = moments(MASKS, features)
    assert mean.shape == variance.shape == (7, 2, *positions, 4)
    for k, b in itertools.product(range(7), range(2)):
        there = np.stack([features[m][b].numpy() for m in range(3) if MASKS[k, b, m]])
        np.testing.assert_allclose(mean[k, b].numpy(), there.mean(0), rtol=1e-5, atol=1e-6)
        expected = there.var(0, ddof=1) if len(there) > 1 else np.zeros_like(there[0])
        np.testing.assert_allclose(variance[k, b].numpy(), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, 1e30])
def test_what_is_absent_does_not_count(bad: float) -> None:
    features = [torch.randn((2, 4)) for _ in range(3)]
    before = torch.cat(moments(MASKS, features), -1)
    for m in range(3):
        spoiled = [torch.full_like(f, bad) if other == m else f for other, f in enumerate(features)]
        after = torch.cat(moments(MASKS, spoiled), -1)
        assert torch.equal(after[~MASKS[..., m]], before[~MASKS[..., m]])


def test_the_moments_are_of_projections() -> None:
    fusion = Moments((4, 3, 5), 12)
    features = [torch.randn(2, width) for width in (4, 3, 5)]
    got = fusion(features, MASKS)
    assert got.shape == (7, 2, fusion.width)
    assert fusion.width == 12
    projected = [x @ own.weight.T + own.bias for x, own in zip(features, fusion.project, strict=True)]
    torch.testing.assert_close(got, torch.cat(moments(MASKS, projected), -1))
    assert Moments((4, 3), 7).width == 8


def test_the_method_is_dropout_on_the_moments(
    make_parts: Callable[..., Components], make_seen: Callable[..., MaskedBatch]
) -> None:
    method = HeMIS(HeMISSettings(head_norm="layer"), make_parts())
    seen = make_seen(torch.tensor([[0, 3, 6], [5, 4, 1]]))
    found = method.predict(seen.features, seen.masks)
    embedding = method.embed(method.fusion(seen.features.contexts, seen.masks))
    torch.testing.assert_close(found.embedding, embedding)
    torch.testing.assert_close(found.logits, method.head.classify(embedding))
