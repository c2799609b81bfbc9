"""The files in the folder of a trial, what they are in object storage, and which of them go when it has ended."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

log = logging.getLogger("dmr")

LAST = "last.pt"  # everything the next epoch needs
BEST = "best.pt"  # the chosen network
ERROR = "error.txt"  # how it failed, with the traceback
HUNG = "hung.txt"  # where every thread was when an epoch took too long; other ranks put `rankN-` before it
CHECKPOINT_OBJECT = re.compile(r"(last|best)-(\d{6,})-(\d{6,})\.pt")


def lost_checkpoints(folder: Path) -> list[Path]:
    """What a run that has ended an epoch lacks to go on."""
    return [file for file in (folder / LAST, folder / BEST) if not file.exists()]


def remove_checkpoints(folder: Path, keep_best: bool) -> None:
    """Remove what a run that has ended leaves behind, its chosen network only where that need not stay. What cannot be
    removed now is tried again when the study is opened.
    """
    try:
        for file in [folder / LAST, *folder.glob("*.partial*"), *([] if keep_best else [folder / BEST])]:
            file.unlink(missing_ok=True)
    except OSError as error:
        log.info("%s: its checkpoints cannot be removed: %s", folder, error)


class CheckpointObject(NamedTuple):
    """A checkpoint in object storage, which is written once: `last` or `best`, as the files in a folder, the number of
    the lease under which its trial was begun, and its epoch. What a driver that has lost its lease still writes of a
    trial that is begun again is known by that number.
    """

    kind: str
    since: int
    epoch: int

    @property
    def name(self) -> str:
        return f"{self.kind}-{self.since:06d}-{self.epoch:06d}.pt"


class StartFrom(NamedTuple):
    """What a process in object storage that trains begins with.

    Attributes:
        since: the number of the lease under which its run was begun.
        epochs: how many of its epochs the driver knows; None where it is new, so that nothing there can be its own.
    """

    since: int
    epochs: int | None


def checkpoint_object(key: str) -> CheckpointObject | None:
    """What a key is the name of, if it is that of a checkpoint."""
    match = CHECKPOINT_OBJECT.fullmatch(key.rpartition("/")[2])
    return CheckpointObject(match[1], int(match[2]), int(match[3])) if match else None


def checkpoint_objects(keys: Iterable[str]) -> list[CheckpointObject]:
    """Those that are checkpoints, of the keys there are."""
    return [one for one in map(checkpoint_object, keys) if one is not None]


def newest_checkpoints(found: Iterable[CheckpointObject], since: int, epochs: int) -> list[CheckpointObject]:
    """The last one that a run goes on from, and the best one until then; none where either is not there.

    Args:
        since: the lease under which it was begun.
        epochs: how many the driver knows: before a checkpoint of a later epoch, except the next, would be epochs that
            nobody has recorded.
    """
    own = [one for one in found if one.since == since]
    last = max((one for one in own if one.kind == "last" and one.epoch <= epochs), default=None, key=_age)
    best = None if last is None else best_checkpoint(own, last.epoch + 1)
    return [] if last is None or best is None else [last, best]


def best_checkpoint(found: Iterable[CheckpointObject], epochs: int) -> CheckpointObject | None:
    """The chosen one of a run that came so far."""
    return max((one for one in found if one.kind == "best" and one.epoch < epochs), default=None, key=_age)


def _age(one: CheckpointObject) -> tuple[int, int]:
    return one.since, one.epoch
