from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from dmr.combinations import all_combinations
from dmr.fusion import (
    FUSIONS,
    Fusion,
    FusionKind,
    GatedFusion,
    MeanKind,
    TokenFusion,
    build_fusion,
    keep_present,
    mean_present,
)

WIDTHS = (4, 3, 5)
POSITIONS = [(), (2,), (2, 3)]
MASKS = torch.from_numpy(all_combinations(["a", "b", "c"]).masks)[:, None].expand(-1, 2, -1)  # (7, B = 2, 3)


def features_of(positions: tuple[int, ...]) -> list[Tensor]:
    return [torch.randn((2, *positions, width)) for width in WIDTHS]


@pytest.mark.parametrize("positions", POSITIONS)
def test_concat_is_side_by_side_with_zeros(positions: tuple[int, ...]) -> None:
    features, fusion = features_of(positions), Fusion(WIDTHS, "concat")
    got = fusion(features, MASKS)
    assert got.shape == (7, 2, *positions, 12)
    assert fusion.width == 12
    for k, b in itertools.product(range(7), range(2)):
        pieces = torch.split(got[k, b], WIDTHS, dim=-1)
        for m, piece in enumerate(pieces):
            assert torch.equal(piece, features[m][b] if MASKS[k, b, m] else torch.zeros_like(piece))


@torch.no_grad()
@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("kind", ["mean", "attention"])
def test_the_others_are_weighted_means_by_loops(kind: MeanKind, positions: tuple[int, ...]) -> None:
    features, fusion = features_of(positions), Fusion(WIDTHS, kind)
    got = fusion(features, MASKS)
    assert got.shape == (7, 2, *positions, 12)
    for k, b in itertools.product(range(7), range(2)):
        there = [m for m in range(3) if MASKS[k, b, m]]
        for where in itertools.product(*map(range, positions)):
            x = {m: features[m][b][where] for m in there}
            weight = dict.fromkeys(there, 1.0)
            if kind == "attention":
                weight = {m: math.exp(x[m] @ fusion.score[m].weight[0] + fusion.score[m].bias[0]) for m in there}
            expected = sum(
                weight[m] / sum(weight.values()) * (fusion.project[m].weight @ x[m] + fusion.project[m].bias)
                for m in there
            )
            torch.testing.assert_close(got[k, b][where], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e38])
@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("kind", FUSIONS)
def test_what_is_absent_changes_nothing(kind: FusionKind, positions: tuple[int, ...], bad: float) -> None:
    features, fusion = features_of(positions), build_fusion(WIDTHS, kind)
    before = fusion(features, MASKS)
    for m in range(3):
        spoiled = [torch.full_like(f, bad) if other == m else f for other, f in enumerate(features)]
        after = fusion(spoiled, MASKS)
        absent = ~MASKS[..., m]
        assert torch.equal(after[absent], before[absent])
        assert not torch.equal(after[~absent], before[~absent])


def test_keep_and_mean_by_hand() -> None:
    masks = torch.tensor([[[True, False]], [[True, True]], [[False, False]]])
    features = [torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 6.0]])]
    assert keep_present(masks, 1, features[1]).tolist() == [[[0.0, 0.0]], [[3.0, 6.0]], [[0.0, 0.0]]]
    assert mean_present(masks, features).tolist() == [[[1.0, 2.0]], [[2.0, 4.0]], [[0.0, 0.0]]]


@pytest.mark.parametrize("kind", FUSIONS)
def test_only_what_is_present_gets_a_gradient(kind: FusionKind) -> None:
    features = [f.requires_grad_(True) for f in features_of((2,))]
    mask = torch.tensor([[[True, False, True], [True, True, False]]])
    build_fusion(WIDTHS, kind)(features, mask).square().sum().backward()
    for m, f in enumerate(features):
        assert f.grad is not None
        for b in range(2):
            assert (f.grad[b].abs().max() > 0) == bool(mask[0, b, m])


@torch.no_grad()
@pytest.mark.parametrize("positions", POSITIONS)
def test_gated_is_a_sum_weighted_by_what_else_is_there(positions: tuple[int, ...]) -> None:
    features, fusion = features_of(positions), GatedFusion(WIDTHS)
    got = fusion(features, MASKS)
    assert got.shape == (7, 2, *positions, 12)
    for k, b in itertools.product(range(7), range(2)):
        for where in itertools.product(*map(range, positions)):
            x = [features[m][b][where] * float(MASKS[k, b, m]) for m in range(3)]
            gates = torch.sigmoid(fusion.gate.weight @ torch.cat(x) + fusion.gate.bias).view(3, 12)
            expected = sum(
                gates[m] * torch.tanh(fusion.project[m].weight @ x[m] + fusion.project[m].bias)
                for m in range(3)
                if MASKS[k, b, m]
            )
            torch.testing.assert_close(got[k, b][where], expected, rtol=1e-4, atol=1e-6)


def attention(block: torch.nn.MultiheadAttention, tokens: Tensor) -> Tensor:
    """Self-attention of (T, D) tokens among themselves, written out; no mask, for nothing is missing."""
    heads, width = block.num_heads, tokens.shape[1] // block.num_heads
    query, key, value = (tokens @ block.in_proj_weight.T + block.in_proj_bias).chunk(3, dim=1)
    mixed = []
    for head in range(heads):
        own = slice(head * width, (head + 1) * width)
        weights = torch.softmax(query[:, own] @ key[:, own].T / width**0.5, dim=1)
        mixed.append(weights @ value[:, own])
    out: Tensor = block.out_proj(torch.cat(mixed, dim=1))
    return out


def class_token(fusion: TokenFusion, features: Sequence[Tensor], there: Sequence[int]) -> Tensor:
    """(T,) from the features (D,) of the modalities that are `there`; the others are not in the sequence at all."""
    tokens = [fusion.start[0]] + [fusion.tokens[m](features[m]) + fusion.start[m + 1] for m in there]
    x = torch.stack(tokens)
    for layer in fusion.encoder.layers:
        x = x + attention(layer.self_attn, layer.norm1(x))
        x = x + layer.linear2(torch.relu(layer.linear1(layer.norm2(x))))
    out: Tensor = fusion.encoder.norm(x)[0]
    return out


@torch.no_grad()
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("layers", "heads"), [(1, 1), (2, 4)])
@pytest.mark.parametrize("positions", [(), (2, 3)])
def test_it_is_attention_among_the_present_tokens_alone(
    positions: tuple[int, ...], layers: int, heads: int, training: bool
) -> None:
    """Without gradients and out of training torch takes a path of its own."""
    fusion = TokenFusion(WIDTHS, layers, heads).train(training)
    features = [torch.randn((2, *positions, width)) for width in WIDTHS]
    got = fusion(features, MASKS)
    assert got.shape == (7, 2, *positions, fusion.width)
    for k, b in itertools.product(range(7), range(2)):
        there = [m for m in range(3) if MASKS[k, b, m]]
        for where in itertools.product(*map(range, positions)):
            expected = class_token(fusion, [x[b][where] for x in features], there)
            torch.testing.assert_close(got[k, b][where], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("widths", "heads", "width"), [((4, 3, 5), 4, 4), ((4, 3, 5), 3, 6), ((64, 64), 4, 64)])
def test_the_token_is_of_the_mean_width_in_whole_heads(widths: tuple[int, ...], heads: int, width: int) -> None:
    assert TokenFusion(widths, 1, heads).width == width
