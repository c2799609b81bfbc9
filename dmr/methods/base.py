"""What a method owes: losses of a training step, predictions, and what it learns from an epoch's statistics.

Letters: B samples, K combinations a sample, C combinations, Z fused features.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from dmr.combinations import Combinations


@dataclass(frozen=True)
class MethodSettings:
    """A method's own keys of `model` in the study file."""


class StepLosses(NamedTuple):
    """What a step gives back: `total` is what is minimised; `parts` are its terms, unweighted, for the log."""

    total: Tensor  # ()
    task: Tensor  # (K, B), detached: the loss of each sample in each of its combinations
    variance: Tensor | None  # (K, B), detached: predicted variance, mean over features
    parts: dict[str, Tensor]  # each (), detached


class Prediction(NamedTuple):
    """Predictions for C combinations of B samples."""

    logits: Tensor  # (C, B, classes)
    variance: Tensor | None  # (C, B), mean over features


class Method(nn.Module):
    """Base of the methods: a head on fused features."""

    Settings: ClassVar[type[MethodSettings]]
    search_space: ClassVar[dict[str, Any]]
    """The method's own default search space, in the notation of the study file."""

    def __init__(self, settings: Any, fused_width: int, num_classes: int, num_combinations: int) -> None:
        super().__init__()

    def losses(self, fused: Tensor, labels: Tensor, combination: Tensor, generator: torch.Generator) -> StepLosses:
        """Losses of a training step.

        Args:
            fused: (K, B, Z) fused features of what is present.
            labels: (B,) int64.
            combination: (K, B) int64, index of the combination each sample is seen with.
            generator: on the device of `fused`.
        """
        raise NotImplementedError

    def predict(self, fused: Tensor) -> Prediction:
        """Predictions from (C, B, Z) fused features; deterministic."""
        raise NotImplementedError

    def start_epoch(self, epoch: int, combinations: Combinations, generator: torch.Generator) -> None:
        """Called before each epoch, which counts from 0; `generator` is on the CPU."""

    def end_epoch(self, epoch: int, sums: Tensor) -> None:
        """Called after each epoch with (3, C) float64: sums of loss, of variance, and the count, by combination."""

    @staticmethod
    def warmup_of(settings: Any) -> int:
        """Epochs before the method's loss has its final form; a scheduler must wait for it."""
        return 0
