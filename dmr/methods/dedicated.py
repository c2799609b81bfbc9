"""One model per combination, 2^M − 1 trainings: the upper reference.

Models are trained side by side on the same batches and share nothing: the sum of their losses has the gradients each of
them would have alone. Only the epoch of the checkpoint is chosen for all of them together, and a `clip_norm` sees the
norm of all gradients.

Letters: B samples, C combinations, M modalities, N models.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dmr.combinations import Combinations
from dmr.losses import masked_mean
from dmr.methods.base import Components, MaskedBatch, Method, Prediction, StepLosses
from dmr.methods.dropout import DropoutSettings
from dmr.methods.full_only import only_full


@dataclass(frozen=True)
class DedicatedSettings(DropoutSettings):
    """Those of `dropout`, for each of the models."""


class SideBySide(Method):
    """A `dropout` network of its own for some of the combinations, always seen with all the modalities it has."""

    own_encoders = True

    def __init__(self, settings: DropoutSettings, parts: Components, which: Sequence[int]) -> None:
        """`which` (N,) of the combinations have a model."""
        super().__init__(settings, parts)
        names, members = parts.combinations.modalities, parts.combinations.members
        own = DropoutSettings(head_norm=settings.head_norm)
        self.which = list(which)
        self.models = [parts.network([names[m] for m in members[c]], own) for c in which]
        self.all_models = nn.ModuleList(self.models)
        self.masks = torch.from_numpy(parts.combinations.masks[self.which])

    def drawn(self, probabilities: Tensor, combinations: Combinations) -> Tensor:
        return only_full(probabilities, combinations)

    def losses(self, seen: MaskedBatch, generator: torch.Generator) -> StepLosses:
        """The combinations of `seen` are not used: every model is trained on every sample that has its modalities.

        `task` and `combination` are (N, B), or where samples lack modalities one row of those of all models.
        """
        steps, which = [], []
        for c, model, mask in zip(self.which, self.models, self.masks, strict=True):
            positions, part = seen.having(mask)
            if part.whole:
                inputs, labels = seen.at(positions)
                step = model.losses(inputs, labels, model.full(part.whole), generator, None, part)
                steps.append(step._replace(total=part.weighed(step.total, seen.part)))
                which.append(torch.full_like(step.combination, c))
        total = torch.stack([step.total for step in steps]).sum()
        along = 0 if seen.has is None else 1
        task = torch.cat([step.task for step in steps], dim=along)
        mean = (
            task.mean() if seen.has is None else masked_mean(task, torch.ones_like(task, dtype=torch.bool), seen.part)
        )
        return StepLosses(total, task, torch.cat(which, dim=along), None, {"task": mean})


class Dedicated(SideBySide):
    """Each combination is predicted by the model of its own."""

    Settings = DedicatedSettings

    def __init__(self, settings: DedicatedSettings, parts: Components) -> None:
        super().__init__(settings, parts, range(len(parts.combinations)))

    def predict_inputs(self, inputs: Mapping[str, Tensor], masks: Tensor) -> Prediction:
        which = [self.masks.tolist().index(mask) for mask in masks.tolist()]
        logits = [self.models[c].predict(inputs, self.models[c].combinations[-1:]).logits for c in which]
        return Prediction(torch.cat(logits), None, None)
