from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from dmr.combinations import all_combinations
from dmr.methods.base import Components, MaskedBatch
from dmr.methods.late_fusion_transformer import LateFusionTransformer, LateFusionTransformerSettings, TokenFusion

WIDTHS = (4, 3, 5)
MASKS = torch.from_numpy(all_combinations(["a", "b", "c"]).masks)[:, None].expand(-1, 2, -1)  # (7, B = 2, 3)


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


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, 1e30])
@pytest.mark.parametrize("training", [True, False])
def test_what_is_missing_changes_nothing(bad: float, training: bool) -> None:
    fusion = TokenFusion(WIDTHS, 2, 4).train(training)
    features = [torch.randn((2, width)) for width in WIDTHS]
    with torch.set_grad_enabled(training):
        before = fusion(features, MASKS)
        for m in range(3):
            spoiled = [torch.full_like(f, bad) if other == m else f for other, f in enumerate(features)]
            after = fusion(spoiled, MASKS)
            assert torch.equal(after[~MASKS[..., m]], before[~MASKS[..., m]])


@pytest.mark.parametrize(("widths", "heads", "width"), [((4, 3, 5), 4, 4), ((4, 3, 5), 3, 6), ((64, 64), 4, 64)])
def test_the_token_is_of_the_mean_width_in_whole_heads(widths: tuple[int, ...], heads: int, width: int) -> None:
    assert TokenFusion(widths, 1, heads).width == width


def test_the_method_is_dropout_on_the_class_token(
    make_parts: Callable[..., Components], make_seen: Callable[..., MaskedBatch]
) -> None:
    method = LateFusionTransformer(LateFusionTransformerSettings(layers=1, heads=2, head_norm="layer"), make_parts())
    seen = make_seen(torch.tensor([[0, 3, 6], [5, 4, 1]]))
    found = method.predict(seen.features, seen.masks)
    for k, b in itertools.product(range(2), range(3)):
        there = seen.masks[k, b].nonzero().flatten().tolist()
        token = class_token(method.fusion, [x[b] for x in seen.features.contexts], there)
        expected = method.head.classify(method.embed(token[None]))[0]
        torch.testing.assert_close(found.logits[k, b], expected, rtol=1e-4, atol=1e-5)
