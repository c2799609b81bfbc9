"""Where a training run keeps its checkpoints: the half of a Reporter that every kind of run shares."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from dmr.checkpoints import load_checkpoint, save_checkpoint
from dmr.studies.storage.study_folder import write_text
from dmr.training import EpochReport, Reporter

log = logging.getLogger("dmr")

LAST, BEST, DIAGNOSTICS = "last.pt", "best.pt", "diagnostics.csv"


def remove_checkpoints(folder: Path, keep_best: bool) -> None:
    """Remove what a run that has ended leaves behind, its chosen network only where that need not stay. What cannot be
    removed now is tried again when the study is opened.
    """
    names = [LAST, "last.partial", "best.partial"] + ([] if keep_best else [BEST])
    try:
        for name in names:
            (folder / name).unlink(missing_ok=True)
    except OSError as error:
        log.info("%s: its checkpoints cannot be removed: %s", folder, error)


class StorageFailed(Exception):
    """A checkpoint could not be written: nothing is wrong with the run, and it can go on later."""


class FolderReporter(Reporter):
    """Checkpoints in a folder: `last.pt` with everything the next epoch needs, `best.pt` with the chosen network.

    Args:
        followed: a metric and its better end, `max` or `min`; its running best is kept in `running_best`.
    """

    def __init__(self, folder: Path, followed: tuple[str, str]) -> None:
        self.folder = folder
        self.metric, self.mode = followed
        self.running_best: float | None = None

    def load(self) -> dict[str, Any] | None:
        state = load_checkpoint(self.folder / LAST, torch.device("cpu"))
        if state is not None:
            self.running_best = state.pop("running_best")
        return state

    def save(self, state: dict[str, Any], is_best: bool) -> None:
        """Raises:
        StorageFailed: the disk is full, gone or read-only.
        """
        value = state["report"]["metrics"][self.metric]
        better = max if self.mode == "max" else min
        self.running_best = value if self.running_best is None else better(self.running_best, value)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if is_best:
                save_checkpoint(self.folder / BEST, {"network": state["network"], "report": state["report"]})
            save_checkpoint(self.folder / LAST, {**state, "running_best": self.running_best})
            if state["diagnosed"]:
                write_text(self.folder / DIAGNOSTICS, diagnostics_csv(state["diagnosed"], state["combinations"]))
        except (OSError, RuntimeError) as error:  # torch raises RuntimeError where a write fails
            raise StorageFailed(f"{self.folder}: cannot be written: {error}") from error

    def report(self, report: EpochReport) -> None:
        raise NotImplementedError


def diagnostics_csv(diagnosed: Sequence[torch.Tensor], combinations: Sequence[str]) -> str:
    """A row an epoch and combination: mean training loss and variance (nothing where it was not drawn), and whether it
    was hard; from rows (3, C) an epoch.
    """
    lines = ["epoch,combination,loss,variance,hard"]
    for epoch, rows in enumerate(diagnosed):
        for name, (loss, variance, hard) in zip(combinations, rows.T.tolist(), strict=True):
            numbers = ",".join("" if math.isnan(value) else repr(value) for value in (loss, variance))
            lines.append(f"{epoch},{name},{numbers},{int(hard)}")
    return "\n".join(lines) + "\n"
