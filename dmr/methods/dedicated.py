"""One model a combination, 2^M − 1 trainings: the reference above.

The models are trained side by side on the same batches and share nothing: the sum of their losses has the gradients
each of them would have alone. Only the epoch of the checkpoint is chosen for all of them together, and a `clip_norm`
sees the norm of all gradients.

Letters: B samples, C combinations, M modalities.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from dmr.combinations import Combinations
from dmr.methods.base import Method, Parts, Prediction, Seen, StepLosses
from dmr.methods.dropout import DropoutSettings
from dmr.methods.full_only import only_full
from dmr.sampling import able_in


@dataclass(frozen=True)
class DedicatedSettings(DropoutSettings):
    """Those of `dropout`, for each of the models."""


class Dedicated(Method):
    """A `dropout` network of its own for each combination, always seen with all the modalities it has."""

    Settings = DedicatedSettings
    search_space: ClassVar[dict[str, Any]] = {}
    own_encoders = True

    def __init__(self, settings: DedicatedSettings, parts: Parts) -> None:
        super().__init__(settings, parts)
        names, members = parts.combinations.modalities, parts.combinations.members
        own = DropoutSettings(head_norm=settings.head_norm)
        self.models = [parts.network([names[m] for m in member], own) for member in members]
        self.all_models = nn.ModuleList(self.models)
        self.masks = torch.from_numpy(parts.combinations.masks)

    def drawn(self, probabilities: Tensor, combinations: Combinations) -> Tensor:
        return only_full(probabilities, combinations)

    def losses(self, seen: Seen, generator: torch.Generator) -> StepLosses:
        """The combinations of `seen` are not used: every model is trained on every sample that has what it needs."""
        count = len(seen.labels)
        has = torch.ones((count, self.masks.shape[1]), dtype=torch.bool) if seen.has is None else seen.has
        able = able_in(self.masks, has)  # (C, B)
        steps = []
        for model, rows in zip(self.models, able, strict=True):
            inputs, labels = seen.inputs, seen.labels
            if not rows.any():
                continue
            if not rows.all():
                at = rows.nonzero().squeeze(1).to(labels.device, non_blocking=True)
                inputs = {name: inputs[name].index_select(0, at) for name in model.names}
                labels = labels.index_select(0, at)
            steps.append(model.losses(inputs, labels, model.full(len(labels)), generator))
        total = torch.stack([step.total for step in steps]).sum()
        shape = (len(steps), count) if seen.has is None else (1, -1)
        task = torch.cat([step.task for step in steps], dim=1).view(shape)
        combination = able.nonzero()[:, 0].to(task.device, non_blocking=True).view(shape)
        return StepLosses(total, task, combination, None, {"task": task.mean()})

    def predict_inputs(self, inputs: Mapping[str, Tensor], masks: Tensor) -> Prediction:
        which = [int((self.masks == mask).all(1).nonzero()) for mask in masks.cpu()]
        logits = [self.models[c].predict(inputs, self.models[c].combinations[-1:]).logits for c in which]
        return Prediction(torch.cat(logits), None, None)
