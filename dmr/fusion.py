"""Fusion of the modalities that are present: features (B, *S, D) of each to (K, B, *S, Z).

Letters: M modalities, B samples, K combinations per sample, C combinations, S positions of a map, D features, Z fused
features, T features of a token.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

MeanKind = Literal["concat", "mean", "attention"]
FusionKind = Literal["concat", "mean", "attention", "gated", "transformer"]
FUSIONS: tuple[FusionKind, ...] = get_args(FusionKind)
LAYERS, HEADS = 2, 4  # of `transformer`


def present(masks: Tensor, modality: int, features: Tensor) -> Tensor:
    """(K, B, 1, ...) of `masks` (K, B, M): whether the modality is there, to go with its features (B, *S, D)."""
    return masks[..., modality].reshape(*masks.shape[:2], *[1] * (features.ndim - 1))


def keep_present(masks: Tensor, modality: int, features: Tensor) -> Tensor:
    """(K, B, *S, D): the features (B, *S, D) where the modality is there, zero elsewhere.

    `where`, not a product: the features of an absent modality may be NaN or infinite.
    """
    return torch.where(present(masks, modality, features), features, 0.0)


def mean_present(masks: Tensor, features: Sequence[Tensor]) -> Tensor:
    """(K, B, *S, D): the mean over the modalities that are there, of features (B, *S, D) of equal width."""
    total = torch.stack([keep_present(masks, m, f) for m, f in enumerate(features)]).sum(0)
    return total / count_present(masks, features[0])


def count_present(masks: Tensor, features: Tensor) -> Tensor:
    """(K, B, 1, ...) how many modalities are there, at least 1."""
    return masks.sum(-1).clamp(min=1).reshape(*masks.shape[:2], *[1] * (features.ndim - 1))


def mean_weights(masks: Tensor) -> Tensor:
    """(M, C) of each modality in the mean over those present, in the combinations `masks` (C, M)."""
    there = masks.T.float()
    return there / there.sum(0).clamp(min=1)


class FusionTerm(NamedTuple):
    """What a fusion that is a weighted sum adds to some of its columns."""

    values: Tensor  # (B, *S, D), the same in every combination
    columns: slice  # the D of the fused features they are added to
    weights: Tensor  # (C,) of each combination


def concat_terms(features: Sequence[Tensor], masks: Tensor) -> list[FusionTerm]:
    """Of features (B, *S, D) side by side, absent ones zero, in the combinations `masks` (C, M)."""
    ends = accumulate(f.shape[-1] for f in features)
    columns = [slice(end - f.shape[-1], end) for f, end in zip(features, ends, strict=True)]
    return list(map(FusionTerm, features, columns, masks.T.float()))


class FusionModule(nn.Module):
    """Features (B, *S, D) of each modality and masks (K, B, M) to (K, B, *S, `width`)."""

    width: int

    @property
    def is_sum(self) -> bool:
        """Whether the fused features are a sum of `terms` whose weights depend on the combination alone."""
        return False

    def terms(self, features: Sequence[Tensor], masks: Tensor) -> list[FusionTerm]:
        """Those whose weighted sums are the fused features of the combinations `masks` (C, M), if it `is_sum`."""
        raise NotImplementedError


class Fusion(FusionModule):
    """concat: features side by side, absent ones zero. mean: the mean of linear projections of those present.
    attention: their mean weighted by a softmax, over those present, of a learned score of each.
    """

    def __init__(self, widths: Sequence[int], kind: MeanKind) -> None:
        super().__init__()
        self.kind = kind
        self.width = sum(widths)
        of_modality = torch.arange(len(widths)).repeat_interleave(torch.tensor(widths))
        self.register_buffer("of_modality", of_modality, persistent=False)  # (Z,) of concatenated features
        self.of_modality: Tensor
        if kind != "concat":
            self.project = nn.ModuleList(nn.Linear(width, self.width) for width in widths)
        if kind == "attention":
            self.score = nn.ModuleList(nn.Linear(width, 1) for width in widths)

    def forward(self, features: Sequence[Tensor], masks: Tensor) -> Tensor:
        """(K, B, *S, Z) from features (B, *S, D) of each modality and masks (K, B, M)."""
        if self.kind == "concat":
            joined = torch.cat(list(features), dim=-1)
            there = masks.index_select(-1, self.of_modality).view(
                *masks.shape[:2], *[1] * (joined.ndim - 2), self.width
            )
            return torch.where(there, joined, 0.0)
        projected = [project(f) for project, f in zip(self.project, features, strict=True)]
        if self.kind == "mean":
            return mean_present(masks, projected)
        scores = torch.stack(
            [
                torch.where(present(masks, m, f), score(f), -math.inf)
                for m, (score, f) in enumerate(zip(self.score, features, strict=True))
            ]
        )
        kept = torch.stack([keep_present(masks, m, f) for m, f in enumerate(projected)])
        return (scores.softmax(0) * kept).sum(0)

    @property
    def is_sum(self) -> bool:
        return self.kind != "attention" and type(self).forward is Fusion.forward

    def terms(self, features: Sequence[Tensor], masks: Tensor) -> list[FusionTerm]:
        if self.kind == "concat":
            return concat_terms(features, masks)
        projected = [project(f) for project, f in zip(self.project, features, strict=True)]
        everywhere = [slice(None)] * len(projected)
        return list(map(FusionTerm, projected, everywhere, mean_weights(masks)))


class TokenFusion(FusionModule):
    """A transformer over a token per modality and a class token, (K, B, *S, T), which is what comes out. Absent tokens
    are masked; on maps every position has a sequence of its own. T is the mean D, rounded up to whole heads.
    """

    def __init__(self, widths: Sequence[int], layers: int, heads: int) -> None:
        super().__init__()
        self.width = heads * -(-sum(widths) // (len(widths) * heads))
        self.tokens = nn.ModuleList(nn.Linear(width, self.width) for width in widths)
        self.start = nn.Parameter(0.02 * torch.randn(len(widths) + 1, self.width))
        layer = nn.TransformerEncoderLayer(
            self.width, heads, 2 * self.width, dropout=0.0, batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, layers, nn.LayerNorm(self.width), enable_nested_tensor=False)

    def forward(self, features: Sequence[Tensor], masks: Tensor) -> Tensor:
        kept = [
            keep_present(masks, m, token(f)) for m, (token, f) in enumerate(zip(self.tokens, features, strict=True))
        ]
        shape = kept[0].shape  # (K, B, *S, T)
        sequence = torch.stack([torch.zeros_like(kept[0]), *kept], dim=-2) + self.start
        missing = torch.cat([torch.zeros_like(masks[..., :1]), ~masks], dim=-1)
        missing = missing.reshape(*shape[:2], *[1] * (len(shape) - 3), missing.shape[-1]).expand(*shape[:-1], -1)
        sequence, missing = sequence.flatten(0, -3), missing.flatten(0, -2)
        if not len(sequence):  # torch's attention takes no empty batch: one row, which is cut off
            sequence, missing = functional.pad(sequence, (0, 0, 0, 0, 0, 1)), functional.pad(missing, (0, 0, 0, 1))
        for layer in self.encoder.layers[:-1]:
            sequence = layer(sequence, src_key_padding_mask=missing)
        last: Any = self.encoder.layers[-1]  # of which the class token alone is needed
        normed = last.norm1(sequence)
        attended, _ = last.self_attn(normed[:, :1], normed, normed, key_padding_mask=missing, need_weights=False)
        token = sequence[:, 0] + attended[:, 0]
        token = token + last.linear2(last.activation(last.linear1(last.norm2(token))))
        assert self.encoder.norm is not None
        out: Tensor = self.encoder.norm(token)
        return out[: math.prod(shape[:-1])].view(shape)


class GatedFusion(FusionModule):
    """Σ_m g_m ⊙ tanh(W_m f_m) over the modalities that are there, with gates g = σ(G [f_1, ..., f_M] + b) of all
    features, absent ones zero, so that what a modality adds depends on the others: the gated multimodal unit of Arevalo
    et al., "Gated Multimodal Units for Information Fusion", 2017 (arXiv 1702.01992), section 3.2. Z is ΣD.
    """

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        self.width = sum(widths)
        self.project = nn.ModuleList(nn.Linear(width, self.width) for width in widths)
        self.gate = nn.Linear(self.width, len(widths) * self.width)

    def forward(self, features: Sequence[Tensor], masks: Tensor) -> Tensor:
        """(K, B, *S, Z) from features (B, *S, D) of each modality and masks (K, B, M)."""
        there = torch.cat([keep_present(masks, m, f) for m, f in enumerate(features)], dim=-1)
        gates = self.gate(there).sigmoid().chunk(len(features), dim=-1)
        shown = (project(f).tanh() for project, f in zip(self.project, features, strict=True))
        kept = (keep_present(masks, m, f) for m, f in enumerate(shown))
        return torch.stack([gate * f for gate, f in zip(gates, kept, strict=True)]).sum(0)


def build_fusion(widths: Sequence[int], kind: FusionKind) -> FusionModule:
    """The fusion of `model.fusion`, of features of D = `widths`."""
    if kind == "transformer":
        return TokenFusion(widths, LAYERS, HEADS)
    return GatedFusion(widths) if kind == "gated" else Fusion(widths, kind)
