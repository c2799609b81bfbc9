from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dmr.combinations import all_combinations
from dmr.methods.base import Components, MaskedBatch
from dmr.methods.shaspec import SharedSpecific, ShaSpec, ShaSpecSettings, domain_loss, shared_distance

MASKS = torch.from_numpy(all_combinations(["a", "b", "c"]).masks)[:, None].expand(-1, 2, -1)  # (7, B = 2, 3)
THERE = torch.tensor([[True, True, False], [True, True, True], [False, True, False], [True, False, True]])


def distance_by_loops(shared: list[Tensor], there: Tensor) -> float:
    total = 0.0
    for i, j in itertools.combinations(range(len(shared)), 2):
        both = [b for b in range(len(there)) if there[b, i] and there[b, j]]
        each = [
            abs(float(x) - float(y))
            for b in both
            for x, y in zip(shared[i][b].flatten(), shared[j][b].flatten(), strict=True)
        ]
        total += sum(each) / len(each) if each else 0.0
    return total


def domain_by_loops(logits: list[Tensor], there: Tensor) -> float:
    losses = []
    for b, m in itertools.product(range(len(there)), range(len(logits))):
        if there[b, m]:
            scores = [math.exp(float(value)) for value in logits[m][b]]
            losses.append(-math.log(scores[m] / sum(scores)))
    return sum(losses) / len(losses)


def test_the_distance_by_hand() -> None:
    shared = [torch.tensor([[1.0, 2.0], [0.0, 0.0]]), torch.tensor([[4.0, 1.0], [5.0, 5.0]])]
    # sample 0: (3 + 1)/2; sample 1 lacks one
    assert shared_distance(shared, torch.tensor([[True, True], [True, False]])).item() == 2.0
    assert shared_distance(shared, torch.tensor([[True, True], [True, True]])).item() == 3.5
    assert shared_distance(shared, torch.tensor([[False, True], [True, False]])).item() == 0.0


@pytest.mark.parametrize("positions", [(), (2, 3)])
def test_the_distance_by_loops(positions: tuple[int, ...]) -> None:
    shared = [torch.randn((4, *positions, 5)) for _ in range(3)]
    assert shared_distance(shared, THERE).item() == pytest.approx(distance_by_loops(shared, THERE), rel=1e-5)


def test_the_domain_term_by_hand() -> None:
    even = torch.zeros(1, 2)
    sure = torch.log(torch.tensor([[1.0, 3.0]]))
    both, one = torch.tensor([[True, True]]), torch.tensor([[True, False]])
    assert domain_loss([even, even], both).item() == pytest.approx(math.log(2))
    assert domain_loss([even, sure], both).item() == pytest.approx((math.log(2) + math.log(4 / 3)) / 2)
    assert domain_loss([sure, even], one).item() == pytest.approx(math.log(4))


def test_the_domain_term_by_loops() -> None:
    logits = [torch.randn(4, 3) for _ in range(3)]
    assert domain_loss(logits, THERE).item() == pytest.approx(domain_by_loops(logits, THERE), rel=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("positions", [(), (2,)])
def test_a_missing_modality_is_the_mean_of_the_available_shared_features(positions: tuple[int, ...]) -> None:
    fusion = SharedSpecific((4, 3, 5))
    assert fusion.own == 4
    assert fusion.width == 12
    features = [torch.randn((2, *positions, width)) for width in (4, 3, 5)]
    shared, specific = fusion.split(features)
    for m in range(3):
        inner = (features[m] @ fusion.adapt[m].weight.T + fusion.adapt[m].bias).clamp(min=0)
        torch.testing.assert_close(shared[m], (inner @ fusion.shared.weight.T + fusion.shared.bias).clamp(min=0))
        own = fusion.specific[m]
        torch.testing.assert_close(specific[m], (features[m] @ own.weight.T + own.bias).clamp(min=0))
    got = fusion(features, MASKS)
    assert got.shape == (7, 2, *positions, 12)
    for k, b in itertools.product(range(7), range(2)):
        there = [m for m in range(3) if MASKS[k, b, m]]
        generated = sum(shared[m][b] for m in there) / len(there)
        for m, piece in enumerate(torch.split(got[k, b], 4, dim=-1)):
            residual = fusion.residual(torch.cat([shared[m][b], specific[m][b]], -1))
            torch.testing.assert_close(piece, shared[m][b] + residual if m in there else generated)


@torch.no_grad()
@pytest.mark.parametrize("positions", [(), (2, 3)])
def test_the_loss_is_the_sum_of_its_terms(
    make_parts: Callable[..., Components], make_seen: Callable[..., MaskedBatch], positions: tuple[int, ...]
) -> None:
    method = ShaSpec(ShaSpecSettings(distance_weight=0.4, domain_weight=0.3, head_norm="layer"), make_parts())
    seen = make_seen(torch.tensor([[0, 6, 4, 1], [3, 2, 4, 1]]), positions=positions)
    there = seen.masks[0] | seen.masks[1]
    shared, specific = method.fusion.split(seen.features.contexts)
    got = method.losses(seen, torch.Generator())
    distance = distance_by_loops(shared, there)
    domain = domain_by_loops([method.which(x.reshape(4, -1, 4).mean(1)) for x in specific], there)
    logits = method.predict(seen.features, seen.masks).logits
    task = torch.stack([F.cross_entropy(row, seen.labels, reduction="none") for row in logits])
    torch.testing.assert_close(got.task, task.detach())
    assert got.terms["distance"].item() == pytest.approx(distance, rel=1e-5)
    assert got.terms["domain"].item() == pytest.approx(domain, rel=1e-5)
    assert got.total.item() == pytest.approx(task.mean().item() + 0.4 * distance + 0.3 * domain, rel=1e-5)


def test_the_weights_are_the_papers() -> None:
    assert (ShaSpecSettings().distance_weight, ShaSpecSettings().domain_weight) == (0.1, 0.02)
