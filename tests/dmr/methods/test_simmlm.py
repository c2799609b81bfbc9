from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dmr.combinations import all_combinations
from dmr.methods.base import Components, MaskedBatch
from dmr.methods.simmlm import SimMLM, SimMLMSettings, combination_codes, nested, ranking_loss

MakeParts = Callable[..., Components]
MakeSeen = Callable[..., MaskedBatch]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def masks_of(count: int) -> Tensor:
    """(C, M)."""
    return torch.from_numpy(all_combinations([f"m{m}" for m in range(count)]).masks)


# --- nested combinations ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("modalities", [2, 3, 5])
def test_the_fewer_are_a_non_empty_proper_subset(modalities: int) -> None:
    masks = masks_of(modalities).repeat(50, 1)[None].expand(3, -1, -1)
    fewer = nested(masks, generator())
    assert fewer.shape == masks.shape
    assert fewer.dtype == torch.bool
    assert not (fewer & ~masks).any()
    assert fewer.any(-1).all()
    single = masks.sum(-1) == 1
    assert torch.equal(fewer[single], masks[single])
    assert (fewer.sum(-1) < masks.sum(-1))[~single].all()


def test_sizes_and_subsets_of_a_size_are_uniform() -> None:
    count = 24_000
    full = torch.tensor([True, False, True, True, True]).expand(1, count, -1)  # 4 are there
    fewer = nested(full, generator())[0]
    subsets = torch.unique(fewer, dim=0, return_counts=True)
    assert len(subsets[0]) == 14  # all but none and all
    for mask, times in zip(*subsets, strict=True):
        share = 1 / 3 / math.comb(4, int(mask.sum()))
        assert abs(times.item() - count * share) < 5 * math.sqrt(count * share * (1 - share))


def test_nested_comes_from_the_generator(
    under_two_global_seeds: Callable[[Callable[[], Any]], tuple[Any, Any]],
) -> None:
    masks = masks_of(4)[None]
    one, other = under_two_global_seeds(lambda: nested(masks, generator(5)))
    assert torch.equal(one, other)
    assert not torch.equal(one, nested(masks, generator(6)))


def test_ranking_by_hand() -> None:
    more, fewer = torch.tensor([[1.0, 3.0], [2.0, 5.0]]), torch.tensor([[2.0, 1.0], [2.0, 1.0]])
    assert ranking_loss(more, fewer).item() == 1.5  # (0 + 2 + 0 + 4) / 4
    more.requires_grad_(True)
    ranking_loss(more, fewer).backward()
    assert more.grad is not None
    assert more.grad[0, 0] == 0
    assert more.grad[0, 1] == more.grad[1, 1] == 0.25


@pytest.mark.parametrize("modalities", [2, 3, 5])
def test_the_code_of_a_combination_is_the_bits_of_its_modalities(modalities: int) -> None:
    combinations = all_combinations([f"m{m}" for m in range(modalities)])
    index = combination_codes(combinations)
    assert index.shape == (2**modalities,)
    for c, mask in enumerate(combinations.masks):
        assert index[sum(2**m for m in range(modalities) if mask[m])] == c


# --- the mixture ------------------------------------------------------------------------------------------------------


def mixture(method: SimMLM, seen: MaskedBatch, mask: Tensor, b: int) -> tuple[Tensor, list[float]]:
    """Logits (L,) of sample b and the gate's weights of the modalities that are there."""
    contexts = [x[b] for x in seen.features.contexts]
    there = [m for m, present in enumerate(mask) if present]
    seen_by_gate = torch.cat([x if m in there else torch.zeros_like(x) for m, x in enumerate(contexts)])
    scores = [float(method.gate.weight[m] @ seen_by_gate + method.gate.bias[m]) for m in there]
    weights = [math.exp(score) / sum(map(math.exp, scores)) for score in scores]
    experts = [method.heads[m].classify(method.embed[m](contexts[m][None]))[0] for m in there]
    return torch.stack([w * expert for w, expert in zip(weights, experts, strict=True)]).sum(0), weights


@torch.no_grad()
def test_the_prediction_is_the_gated_sum_of_the_experts(make_parts: MakeParts, make_seen: MakeSeen) -> None:
    method = SimMLM(SimMLMSettings(head_norm="layer"), make_parts())
    seen = make_seen(torch.arange(7).expand(3, 7))
    masks = masks_of(3)[:, None].expand(-1, 7, -1)
    got = method.predict(seen.features, masks).logits
    assert got.shape == (7, 7, 3)
    for c, b in itertools.product(range(7), range(7)):
        expected, weights = mixture(method, seen, masks[c, b], b)
        assert sum(weights) == pytest.approx(1)
        torch.testing.assert_close(got[c, b], expected, rtol=1e-4, atol=1e-5)
        if len(weights) == 1:
            assert weights == [1.0]


@torch.no_grad()
def test_the_loss_is_the_formula(make_parts: MakeParts, make_seen: MakeSeen) -> None:
    method = SimMLM(SimMLMSettings(ranking_weight=0.6, head_norm="layer"), make_parts())
    seen = make_seen(torch.tensor([[6, 3, 0, 4, 6], [5, 6, 2, 6, 1]]))
    got = method.losses(seen, generator(3))
    fewer = nested(seen.masks, generator(3))
    losses = torch.zeros(2, 2, 5)
    for (n, masks), k, b in itertools.product(enumerate((seen.masks, fewer)), range(2), range(5)):
        losses[n, k, b] = F.cross_entropy(mixture(method, seen, masks[k, b], b)[0], seen.labels[b])
    ranking = sum(max(0.0, float(x - y)) for x, y in zip(losses[0].flatten(), losses[1].flatten(), strict=True)) / 10
    assert ranking > 0
    assert got.terms["ranking"].item() == pytest.approx(ranking, rel=1e-4)
    assert got.total.item() == pytest.approx(2 * losses.mean().item() + 0.6 * ranking, rel=1e-4)
    assert got.terms["task"].item() == pytest.approx(2 * losses.mean().item(), rel=1e-4)
    assert got.task.shape == got.combination.shape == (4, 5)
    torch.testing.assert_close(got.task, losses.flatten(0, 1), rtol=1e-4, atol=1e-5)
    assert torch.equal(masks_of(3)[got.combination], torch.cat([seen.masks, fewer]))


def test_the_loss_is_twice_that_of_the_released_code_with_half_the_weight(
    make_parts: MakeParts, make_seen: MakeSeen
) -> None:
    """The authors put samples with more and with fewer modalities into one batch, take its mean, and add λ × the mean
    of what more lose over fewer. Their paper's formula has the sum of the two losses.
    """
    method = SimMLM(SimMLMSettings(head_norm="layer"), make_parts())
    got = method.losses(make_seen(torch.tensor([[6, 3, 0, 4, 6]])), generator(3))
    more, fewer = got.task.chunk(2)
    released = torch.cat([more, fewer]).mean() + 0.05 * torch.clamp(more - fewer, min=0).mean()
    assert got.total.item() == pytest.approx(2 * released.item(), rel=1e-6)


def test_in_segmentation_a_map_has_one_weight_a_modality(make_network: Callable[..., Any]) -> None:
    network, inputs, _ = make_network(SimMLMSettings(head_norm="layer"), "segmentation", samples=2)
    method, features = network.eval().method, network.encode(inputs)
    experts = method.experts(features)
    assert experts.shape == (3, 2, 8, 8, 3)
    mask = torch.tensor([[[True, False, True], [False, True, True]]])
    got = method.mix(features, experts, mask)
    for b in range(2):
        there = mask[0, b].nonzero().flatten().tolist()
        pooled = [x[b].mean((0, 1)) if m in there else torch.zeros(16) for m, x in enumerate(features.contexts)]
        weights = torch.softmax(method.gate(torch.cat(pooled))[there], 0)
        expected = torch.stack([w * experts[m, b] for w, m in zip(weights, there, strict=True)]).sum(0)
        torch.testing.assert_close(got[0, b], expected)


def test_a_single_modality_is_its_expert_alone(make_network: Callable[..., Any]) -> None:
    network, inputs, _ = make_network(SimMLMSettings())
    network.eval()
    experts = network.method.experts(network.encode(inputs))
    torch.testing.assert_close(network.predict(inputs, network.combinations[:3]).logits, experts)
