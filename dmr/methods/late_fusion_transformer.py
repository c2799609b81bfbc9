"""Late fusion by a transformer: `dropout` on `fusion: transformer`, whose layers and heads are keys here.

Said to be hard to beat where it is tuned and trained with dropped modalities (arXiv 2512.22991).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from dmr.fusion import HEADS, LAYERS, TokenFusion
from dmr.methods.base import Components
from dmr.methods.dropout import Dropout, DropoutSettings
from dmr.settings import setting


@dataclass(frozen=True)
class LateFusionTransformerSettings(DropoutSettings):
    layers: int = setting(LAYERS, ge=1, le=24)
    heads: int = setting(HEADS, ge=1, le=64)


class LateFusionTransformer(Dropout):
    """`dropout` whose fusion is the class token of a transformer over the tokens of the modalities."""

    Settings = LateFusionTransformerSettings
    search_space: ClassVar[dict[str, Any]] = {"model.layers": {"int": [1, 3]}}

    def __init__(self, settings: LateFusionTransformerSettings, parts: Components) -> None:
        super().__init__(settings, parts, TokenFusion(parts.widths, settings.layers, settings.heads))
