"""One network per modality, each trained on it alone; a combination is predicted by those of its modalities together.

The product rule of Kittler, Hatef, Duin, Matas, "On Combining Classifiers", IEEE TPAMI 1998, which is Bayes' where the
modalities are independent given the class. Tuned, such an ensemble is said to be rarely beaten (SimBaMM,
arXiv 2512.22991).

Letters: M modalities, B samples, C combinations, P pixels of a label map (none in classification), L classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from dmr.data.transfer import to_device
from dmr.methods.base import Components, MaskedBatch, Prediction, StepLosses
from dmr.methods.dedicated import SideBySide
from dmr.methods.dropout import DropoutSettings


@dataclass(frozen=True)
class UnimodalEnsembleSettings(DropoutSettings):
    """Those of `dropout`, for each of the networks; `combine: mean` is the mean of their log p(y|x_m)."""

    combine: Literal["product", "mean"] = "product"


class UnimodalEnsemble(SideBySide):
    """log p(y|x_S) = Σ_m log p(y|x_m) − (|S| − 1) log p(y) over the modalities S that are present, normalised.

    p(y) are the frequencies of the classes among the labels (pixels) of all training steps, weighted as in the task
    loss; a class that never occurred counts once.
    """

    Settings = UnimodalEnsembleSettings
    search_space: ClassVar[dict[str, Any]] = {"model.combine": {"choice": ["product", "mean"]}}

    def __init__(self, settings: UnimodalEnsembleSettings, parts: Components) -> None:
        alone = [c for c, member in enumerate(parts.combinations.members) if len(member) == 1]
        super().__init__(settings, parts, alone)
        self.register_buffer("counts", torch.zeros(parts.num_classes, dtype=torch.float64))
        self.counts: Tensor  # (L,)

    def losses(self, seen: MaskedBatch, generator: torch.Generator) -> StepLosses:
        counts = self.criterion.class_counts(seen.labels, len(self.counts))
        self.counts += seen.part.ranks.total(counts)
        return super().losses(seen, generator)

    def predict_inputs(self, inputs: Mapping[str, Tensor], masks: Tensor) -> Prediction:
        """Each network is asked once, of whatever combinations."""
        full = [model.predict(inputs, model.combinations[-1:]).logits[0] for model in self.models]
        log = torch.stack(full).float().log_softmax(-1)  # (M, B, *P, L)
        return Prediction(
            combined(log, to_device(masks, log.device), self.log_prior(), self.settings.combine), None, None
        )

    def log_prior(self) -> Tensor:
        """(L,) log p(y)."""
        counts = self.counts.clamp(min=1.0)
        return (counts / counts.sum()).log().float()


def combined(log: Tensor, masks: Tensor, log_prior: Tensor, combine: Literal["product", "mean"]) -> Tensor:
    """(C, B, *P, L) log p(y|x_S) of the combinations `masks` (C, M), from log p(y|x_m) (M, B, *P, L) and log p(y) (L,).

    What is absent is left out, not multiplied by zero: it may be NaN.
    """
    each = [1] * (log.ndim - 1)
    size = masks.sum(1).view(-1, *each)
    total = log.new_zeros((len(masks), *log.shape[1:]))
    for there, values in zip(masks.T, log, strict=True):
        total = total + torch.where(there.view(-1, *each), values, 0.0)
    return (total / size if combine == "mean" else total - (size - 1) * log_prior).log_softmax(-1)
