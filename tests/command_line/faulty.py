"""A method that goes wrong on purpose. A trial's process learns of it when it unpickles the settings."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import torch

from dmr.methods import METHODS
from dmr.methods.base import StepLosses
from dmr.methods.dropout import Dropout, DropoutSettings
from dmr.object_storage import lease
from dmr.settings import setting

HOME = Path(os.environ.get("FAULTY_HOME", "."))


@dataclass(frozen=True)
class FaultySettings(DropoutSettings):
    """`fault` happens in the epoch `at`, `kill_once` only once; every epoch takes `slow` seconds longer, and leaves a
    line in the file `trace` when it begins: node, process, epoch. While there is a file `trace`.hold it does not end.
    """

    fault: Literal["none", "nan", "memory", "error", "kill", "kill_once", "hang"] = "none"
    at: int = setting(2, ge=0)
    slow: float = setting(0.0, ge=0.0)
    trace: str = ""


class Faulty(Dropout):
    Settings = FaultySettings
    search_space: ClassVar = {}

    def start_epoch(self, epoch, combinations, generator):
        super().start_epoch(epoch, combinations, generator)
        self.fault = self.settings.fault if epoch == self.settings.at else "none"
        if self.settings.trace:
            leave_trace(self.settings.trace, epoch)
        time.sleep(self.settings.slow)

    def losses(self, seen, generator):
        if self.fault == "error":
            raise KeyError("a fault on purpose")
        if self.fault == "memory":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3.00 GiB")
        if self.fault == "kill_once" and not (HOME / "killed").exists():
            (HOME / "killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if self.fault == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.fault == "hang":
            time.sleep(600)
        found = super().losses(seen, generator)
        return StepLosses(found.total * torch.nan, *found[1:]) if self.fault == "nan" else found


def leave_trace(file: str, epoch: int) -> None:
    import ray

    with open(file, "a") as trace:
        trace.write(f"{ray.get_runtime_context().get_node_id()} {os.getpid()} {epoch}\n")
    while os.path.exists(f"{file}.hold"):
        time.sleep(0.05)


METHODS["faulty"] = Faulty

if "FAULTY_LEASE" in os.environ:  # seconds, instead of 90
    lease.SECONDS, lease.MARGIN = float(os.environ["FAULTY_LEASE"]), 2.0
    lease.RENEW_AFTER = lease.SECONDS / 4
