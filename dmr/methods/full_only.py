"""Trained on complete samples only, evaluated on all combinations: a lower bound for the other methods."""

from __future__ import annotations

import torch
from torch import Tensor

from dmr.combinations import Combinations
from dmr.methods.dropout import Dropout, DropoutSettings


class FullOnlySettings(DropoutSettings):
    """Those of `dropout`."""


class FullOnly(Dropout):
    """The network of `dropout`; whatever `sampling` says, a training sample is seen with all modalities it has."""

    Settings = FullOnlySettings

    def drawn(self, probabilities: Tensor, combinations: Combinations) -> Tensor:
        return only_full(probabilities, combinations)


def only_full(probabilities: Tensor, combinations: Combinations) -> Tensor:
    """(C,) probability 1 for the full combination."""
    full = torch.zeros_like(probabilities)
    full[combinations.full] = 1.0
    return full
