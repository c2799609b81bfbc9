"""What ends a process whose epoch takes too long."""

from __future__ import annotations

import faulthandler
from pathlib import Path

from dmr.studies.storage.trial_files import HUNG


class EpochWatch:
    """Ends this process where an epoch takes too long, and leaves the traceback of every thread in `hung.txt`.

    The watch is faulthandler's thread in C, which also works while Python is stuck.
    """

    def __init__(self, folder: Path, minutes: float | None, rank: int = 0) -> None:
        self.minutes = minutes
        if minutes is not None:
            folder.mkdir(parents=True, exist_ok=True)
            name = HUNG if rank == 0 else f"rank{rank}-{HUNG}"
            self.file = open(folder / name, "w", encoding="utf-8")  # noqa: SIM115  # open as long as the process may end

    def start(self) -> None:
        if self.minutes is not None:
            faulthandler.dump_traceback_later(60.0 * self.minutes, exit=True, file=self.file)

    def stop(self) -> None:
        faulthandler.cancel_dump_traceback_later()
