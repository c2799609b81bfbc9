"""A method of somebody's own that was written against the earlier names still trains."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from dmr.data.dataset import MultimodalDataset
from dmr.distributed.ranks import Part
from dmr.methods.base import Parts, Seen, StepLosses
from dmr.methods.dropout import Dropout, DropoutSettings
from dmr.training import RunSettings, fit


class OldSettings(DropoutSettings):
    """Settings of its own, by which the method is known."""


class Old(Dropout):
    Settings = OldSettings
    met: list[Any] = []  # noqa: RUF012

    def __init__(self, settings: OldSettings, parts: Parts) -> None:
        super().__init__(settings, parts)
        assert parts.widths

    def losses(self, seen: Seen, generator: torch.Generator) -> StepLosses:
        part: Part = seen.part
        losses = super().losses(seen, generator)
        self.met.append((seen.anywhere, seen.masks.shape[1] == part.own, losses.parts["task"]))
        return losses

    def end_epoch(self, epoch: int, sums: Tensor) -> None:
        self.met.append(sums[2] + 0)


def test_a_method_with_the_old_names_trains(
    make_dataset: Callable[..., MultimodalDataset], make_settings: Callable[..., RunSettings], memory_reporter: Any
) -> None:
    dataset = make_dataset()
    Old.met.clear()
    report = fit(dataset, make_settings(dataset, OldSettings(), epochs=1), torch.device("cpu"), memory_reporter())
    assert report.metrics["train/task"] > 0.0
    *steps, counts = Old.met
    assert steps
    assert all(fits and task.ndim == 0 for _, fits, task in steps)
    assert counts.sum() == 4 * 18  # combinations per sample
