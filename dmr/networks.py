"""From inputs to predictions: encode what is present, fuse, and hand over to the method.

Letters: M modalities, B samples, K combinations a sample, C combinations, D features, Z fused features (Σ D).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from dmr.data.dataset import InputStatistics, Modality
from dmr.encoders import EncoderSettings, build_encoder
from dmr.methods import MethodSettings, Prediction, build_method

EVALUATED_AT_ONCE = 16_384


class Network(nn.Module):
    """An encoder a modality, fusion by concatenation, and the method's head on the fused features."""

    def __init__(
        self,
        modalities: Sequence[Modality],
        encoders: Mapping[str, EncoderSettings],
        statistics: Mapping[str, InputStatistics],
        method: MethodSettings,
        num_classes: int,
        num_combinations: int,
    ) -> None:
        super().__init__()
        self.names = tuple(modality.name for modality in modalities)
        self.widths = tuple(encoders[name].width for name in self.names)
        self.encoders = nn.ModuleList(
            build_encoder(m, encoders[m.name], statistics[m.name].mean, statistics[m.name].std) for m in modalities
        )
        self.method = build_method(method, sum(self.widths), num_classes, num_combinations)

    def encode(self, inputs: Mapping[str, Tensor], needed: Tensor | None = None) -> list[Tensor]:
        """Features (B, D) of each modality; zeros where `needed` (B, M), bool on the CPU, is False.

        Only the samples that need a modality go through its encoder: they are gathered, encoded and scattered back.
        `needed` is on the CPU so that a GPU is never waited for.
        """
        features = []
        for m, (name, width, encoder) in enumerate(zip(self.names, self.widths, self.encoders, strict=True)):
            x = inputs[name]
            rows = None if needed is None else needed[:, m].nonzero().squeeze(1)
            if rows is None or len(rows) == len(x):
                features.append(encoder(x))
                continue
            encoded = x.new_zeros((len(x), width), dtype=torch.float32)
            if len(rows):
                rows = rows.to(x.device, non_blocking=True)
                encoded = encoded.index_copy(0, rows, encoder(x.index_select(0, rows)).float())
            features.append(encoded)
        return features

    def fuse(self, features: Sequence[Tensor], masks: Tensor) -> Tensor:
        """Concatenate (B, D) features with those absent in `masks` (K, B, M) or (C, 1, M) set to zero: (K, B, Z)."""
        # where, not a product: the features of an absent modality may be NaN or infinite
        return torch.cat([torch.where(masks[..., m : m + 1], f, 0.0) for m, f in enumerate(features)], dim=-1)

    def predict(self, features: Sequence[Tensor], masks: Tensor) -> Prediction:
        """Predictions of every combination from one encoding: logits (C, B, classes), in eval mode.

        Args:
            features: of all modalities, from `encode`.
            masks: (C, M) bool.
        """
        step = max(1, EVALUATED_AT_ONCE // len(features[0]))
        chunks = torch.split(masks.to(features[0].device), step)
        parts = [self.method.predict(self.fuse(features, chunk[:, None, :])) for chunk in chunks]
        variances = [part.variance for part in parts if part.variance is not None]
        return Prediction(
            torch.cat([part.logits for part in parts]), torch.cat(variances) if len(variances) == len(parts) else None
        )
