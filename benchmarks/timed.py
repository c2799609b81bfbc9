"""How the benchmarks of studies time training: the trial's process writes a line to times.jsonl, read afterwards."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dmr.data.dataset import MultimodalDataset
from dmr.training import EpochReport, Reporter, RunSettings, fit

TIMES = "times.jsonl"


@dataclass(frozen=True)
class Timed:
    """A study: seconds from command to exit, and those of its trials, in the order in which they ended."""

    wall: float
    began: list[float]
    ended: list[float]
    training: list[float]

    @property
    def further(self) -> list[float]:
        """Overhead of every trial but the first, where they run one at a time."""
        return [b - a - t for a, b, t in zip(self.ended, self.ended[1:], self.training[1:], strict=False)]

    @property
    def overhead(self) -> float:
        return self.wall - sum(self.training)

    @property
    def around(self) -> float:
        """Before the first training and after the last."""
        return self.wall - (self.ended[-1] - self.began[0])


def read_times(folder: Path, wall: float) -> Timed:
    """What the trials of a study in `folder` have written."""
    lines = [json.loads(line) for line in (folder / TIMES).read_text(encoding="utf-8").splitlines()]
    lines.sort(key=lambda line: line["ended"])
    return Timed(wall, *([line[key] for line in lines] for key in ("began", "ended", "training")))


class Clocked(Reporter):
    """Hands on to a reporter and counts the seconds spent in it."""

    def __init__(self, inner: Reporter) -> None:
        self.inner, self.seconds = inner, 0.0

    def load(self) -> dict[str, Any] | None:
        state: dict[str, Any] | None = self._counted(self.inner.load)
        return state

    def save(self, state: dict[str, Any], is_best: bool) -> None:
        self._counted(self.inner.save, state, is_best)

    def report(self, report: EpochReport) -> None:
        self._counted(self.inner.report, report)

    def _counted(self, call: Callable[..., Any], *arguments: Any) -> Any:
        started = time.perf_counter()
        try:
            return call(*arguments)
        finally:
            self.seconds += time.perf_counter() - started


def timed_fit(
    folder: Path, dataset: MultimodalDataset, settings: RunSettings, device: torch.device, reporter: Reporter
) -> EpochReport:
    """`dmr.training.fit`; writes when it began and ended, and the seconds that were not spent in the reporter."""
    _import_what_training_imports()
    clocked, began, started = Clocked(reporter), time.time(), time.perf_counter()
    report = fit(dataset, settings, device, clocked)
    training = time.perf_counter() - started - clocked.seconds
    with open(folder / TIMES, "a", encoding="utf-8") as file:
        file.write(json.dumps({"began": began, "ended": time.time(), "training": training}) + "\n")
    return report


def _import_what_training_imports() -> None:
    """What a process imports at its first training is a cost of starting processes; later this does nothing."""
    parameter = torch.nn.Parameter(torch.zeros(1))
    parameter.grad = torch.zeros(1)
    torch.optim.AdamW([parameter], fused=True).step()
