"""The files in the folder of a trial, and which of them go when it has ended."""

from __future__ import annotations

import logging
from pathlib import Path

log = logging.getLogger("dmr")

LAST = "last.pt"  # everything the next epoch needs
BEST = "best.pt"  # the chosen network
ERROR = "error.txt"  # how it failed, with the traceback
HUNG = "hung.txt"  # where every thread was when an epoch took too long; other ranks put `rankN-` before it
REQUEST = ".request"  # ends what a worker group calls itself where it asks the cluster for nodes; before it its trial


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
