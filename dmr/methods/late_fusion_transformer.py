"""Late fusion by a transformer: one token per modality, a class token, and a key-padding mask over what is missing.

Said to be hard to beat where it is tuned and trained with dropped modalities (arXiv 2512.22991). On maps every position
has a sequence of its own.

Letters: M modalities, B samples, K combinations per sample, S positions of a map, D features, T features of a token.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from dmr.fusion import FusionModule, keep_present
from dmr.methods.base import Components
from dmr.methods.dropout import Dropout, DropoutSettings
from dmr.settings import setting


@dataclass(frozen=True)
class LateFusionTransformerSettings(DropoutSettings):
    layers: int = setting(2, ge=1, le=24)
    heads: int = setting(4, ge=1, le=64)


class LateFusionTransformer(Dropout):
    """`dropout` whose fusion is the class token of a transformer over the tokens of the modalities."""

    Settings = LateFusionTransformerSettings
    search_space: ClassVar[dict[str, Any]] = {"model.layers": {"int": [1, 3]}}

    def __init__(self, settings: LateFusionTransformerSettings, parts: Components) -> None:
        super().__init__(settings, parts, TokenFusion(parts.widths, settings.layers, settings.heads))


class TokenFusion(FusionModule):
    """(B, *S, D) of each modality to the class token (K, B, *S, T); T is the mean D, rounded up to whole heads."""

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
            token(keep_present(masks, m, f)) for m, (token, f) in enumerate(zip(self.tokens, features, strict=True))
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
