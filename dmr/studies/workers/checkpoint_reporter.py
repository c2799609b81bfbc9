"""Where a training run keeps its checkpoints: the half of a Reporter that every kind of run shares."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from dmr.analysis.results.record_names import DIAGNOSTICS
from dmr.checkpoints import load_checkpoint, save_checkpoint
from dmr.direction import Direction
from dmr.files import write_text
from dmr.object_storage.store import StoreRefused
from dmr.studies.storage.trial_files import BEST, LAST, lost_checkpoints
from dmr.studies.trial_messages import EpochMessage
from dmr.studies.workers.checkpoint_uploads import CheckpointUploads
from dmr.studies.workers.system_metrics import SystemMonitor
from dmr.training import EpochReport, Reporter

log = logging.getLogger("dmr")


class StorageFailed(Exception):
    """A checkpoint could not be written: nothing is wrong with the run, and it can go on later."""


class FolderReporter(Reporter):
    """Checkpoints in a folder: `last.pt` with everything the next epoch needs, `best.pt` with the chosen network.

    Args:
        followed: a metric and which way it is better; its running best is kept in `running_best`.
        monitor: measures what the run takes of its machine; None where that is not recorded.
        uploads: takes the checkpoints to object storage; None where the folder is where they stay.
    """

    def __init__(
        self,
        folder: Path,
        followed: tuple[str, Direction],
        monitor: SystemMonitor | None = None,
        uploads: CheckpointUploads | None = None,
    ) -> None:
        self.folder, self.uploads = folder, uploads
        self.metric, self.direction = followed
        self.running_best = -self.direction.sign * math.inf
        self.monitor = monitor

    def load(self) -> dict[str, Any] | None:
        """None, too, where the chosen network is not there any more, since no later epoch may be better.

        Raises:
            StorageFailed: the store cannot be read.
        """
        if self.uploads is not None:
            with _as_storage_failed(self.folder):
                self.uploads.fetch()
        if lost_checkpoints(self.folder):
            return None
        state = load_checkpoint(self.folder / LAST, torch.device("cpu"))
        if state is not None:
            self.running_best = state.pop("running_best")
        return state

    def save(self, state: dict[str, Any], is_best: bool) -> None:
        """Raises:
        StorageFailed: the disk is full, gone or read-only.
        """
        if (value := state["report"]["metrics"].get(self.metric)) is not None:  # an epoch that was evaluated
            self.running_best = self.direction.best((self.running_best, value))
        with _as_storage_failed(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            if is_best:
                save_checkpoint(self.folder / BEST, {"network": state["network"], "report": state["report"]})
            save_checkpoint(self.folder / LAST, {**state, "running_best": self.running_best})
            if state["diagnosed"]:
                write_text(self.folder / DIAGNOSTICS, diagnostics_csv(state["diagnosed"], state["combinations"]))
            if self.uploads is not None:
                self.uploads.put(state["report"]["epoch"], is_best)

    def end(self) -> None:
        """The run has ended; what it leaves is where it stays when this returns.

        Raises:
            StorageFailed: it cannot be written.
        """
        if self.uploads is not None:
            self.uploads.end()
            with _as_storage_failed(self.folder):
                self.uploads.wait()

    def report(self, report: EpochReport) -> None:
        raise NotImplementedError

    def message(self, report: EpochReport) -> EpochMessage:
        """What the driver is told of an epoch."""
        uploaded = [] if self.uploads is None else self.uploads.uploaded()
        return EpochMessage(report, {} if self.monitor is None else self.monitor.sample(), uploaded)


@contextmanager
def _as_storage_failed(folder: Path) -> Iterator[None]:
    try:
        yield
    except StoreRefused as error:
        raise StorageFailed(str(error)) from error
    except (OSError, RuntimeError) as error:  # torch raises RuntimeError where a write fails
        raise StorageFailed(f"{folder}: cannot be written: {error}") from error


def diagnostics_csv(diagnosed: Sequence[torch.Tensor], combinations: Sequence[str]) -> str:
    """One row per epoch and combination: mean training loss and variance (nothing where it was not drawn), and whether
    it was hard; from rows (3, C) per epoch.
    """
    lines = ["epoch,combination,loss,variance,hard"]
    for epoch, rows in enumerate(diagnosed):
        for name, (loss, variance, hard) in zip(combinations, rows.T.tolist(), strict=True):
            numbers = ",".join("" if math.isnan(value) else repr(value) for value in (loss, variance))
            lines.append(f"{epoch},{name},{numbers},{int(hard)}")
    return "\n".join(lines) + "\n"
