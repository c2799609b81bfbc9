"""What a process and the processes it starts take while it runs: memory and processor seconds, read twice a second.

Letters: R readings.
"""

from __future__ import annotations

import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil

READ_EVERY = 0.5
GONE = (psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError)


@dataclass(frozen=True)
class Watched:
    """R readings of a process until its end.

    Attributes:
        times: of the readings, seconds since the epoch.
        resident: MB that the process has in memory (VmRSS of /proc/PID/status).
        anonymous: MB of them that are its own and no cache of a file (RssAnon).
        processor: user and system seconds of the process until then.
        processor_of_all: the same of the process and all that it has started, also those that have ended.
    """

    times: np.ndarray
    resident: np.ndarray
    anonymous: np.ndarray
    processor: np.ndarray
    processor_of_all: np.ndarray

    def at(self, moment: float, values: np.ndarray) -> float:
        """One of the values at a moment, between the readings beside it."""
        return float(np.interp(moment, self.times, values))


def watch(process: subprocess.Popen[Any]) -> Watched:
    """Wait for a process to end, and read it and its descendants meanwhile."""
    root, seconds = psutil.Process(process.pid), dict[int, float]()
    readings = []
    while process.poll() is None:
        for one in [root, *root.children(recursive=True)]:
            with suppress(*GONE):
                times = one.cpu_times()
                seconds[one.pid] = times.user + times.system
        with suppress(*GONE):
            memory = _memory(process.pid)
            if "RssAnon" in memory:  # else it has just ended
                whole = sum(seconds.values())
                readings.append((time.time(), memory["VmRSS"], memory["RssAnon"], seconds[process.pid], whole))
        time.sleep(READ_EVERY)
    return Watched(*np.array(readings).T)


def _memory(pid: int) -> dict[str, float]:
    """The lines of /proc/PID/status in kB, in MB."""
    fields = (line.split() for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines())
    return {field[0].rstrip(":"): 1024 * int(field[1]) / 1e6 for field in fields if field[-1] == "kB"}
