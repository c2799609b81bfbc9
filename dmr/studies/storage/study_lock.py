"""Who runs a study: the lock that keeps a second driver out and dies with its process, and what a dead driver left."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import psutil

from dmr.files import named, write_text
from dmr.studies.errors import StudyError

MAX_BYTES = 512


class Driver(NamedTuple):
    """The process that runs a study, and the host it is on, which may be another node of a shared folder."""

    process: int
    host: str

    @property
    def here(self) -> bool:
        return self.host == socket.gethostname()

    def __str__(self) -> str:
        return f"process {self.process}" + ("" if self.here else f" on {self.host}")


class StudyLock:
    """The lock of the study in a folder; its file holds the driver's process id, its start time and its host."""

    def __init__(self, folder: Path, place: str | None = None) -> None:
        """Args:
        place: where the study is, for people, if not in this folder.
        """
        self.folder, self.place = folder, place or str(folder)
        self._file, self._processes = folder / "lock", folder / "processes.json"

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the study.

        Raises:
            StudyError: another driver holds it, or the folder cannot be written.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self._file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise StudyError(f"{self.folder}: cannot be written: {error.strerror}") from None
        try:
            if not _try_lock(descriptor):
                holder = _parse(os.read(descriptor, MAX_BYTES))
                name = self.folder.name
                raise StudyError(
                    f"{self.place}: study {name!r} is running in {holder[0] if holder else 'another process'}; "
                    f"`dmr stop {name}` stops it"
                )
            os.ftruncate(descriptor, 0)
            self.end_leftovers()
            mine = f"{os.getpid()} {psutil.Process().create_time()} {socket.gethostname()}"
            with named(self._file):
                os.pwrite(descriptor, mine.encode(), 0)
            yield
            self._processes.unlink(missing_ok=True)
        finally:
            os.close(descriptor)

    def driver(self) -> Driver | None:
        """The process that runs the study now, None where none does."""
        try:
            with open(self._file, "rb") as lock:
                try:
                    fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
                except OSError:
                    found = _parse(lock.read(MAX_BYTES))
                    if found is None:
                        return None
                    driver, started = found
                    alive = not driver.here or psutil.Process(driver.process).create_time() == started
                    return driver if alive else None
        except (OSError, psutil.NoSuchProcess):
            return None
        return None

    def remember_processes(self) -> None:
        """Note what this driver has started on this machine, for the case that it is killed."""
        found = []
        for child in psutil.Process().children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                found.append((child.pid, child.create_time()))
        noted = {"host": socket.gethostname(), "folder": str(self.folder), "processes": found}
        write_text(self._processes, json.dumps(noted))

    def end_leftovers(self) -> None:
        """Kill what a dead driver left running on this machine: processes known by their number and time of birth."""
        try:
            noted = json.loads(self._processes.read_text(encoding="utf-8"))
            if isinstance(noted, list):  # by an earlier version, which did not note the host
                noted = {"host": socket.gethostname(), "processes": noted}
            host, folder = noted["host"], Path(noted.get("folder", self.folder))
            if host != socket.gethostname() or (folder != self.folder and folder.exists()):
                return  # another machine's, or those of the study that this folder is a copy of
            processes = [(int(number), float(started)) for number, started in noted["processes"]]
        except (OSError, ValueError, TypeError, KeyError):  # none, or a damaged file
            return
        for number, started in processes:
            with suppress(psutil.NoSuchProcess):
                process = psutil.Process(number)
                if process.create_time() == started:
                    process.kill()
        self._processes.unlink(missing_ok=True)


def _parse(text: bytes) -> tuple[Driver, float] | None:
    """Driver and its start time; None where a driver that has just started has not written them yet."""
    number, _, rest = text.decode(errors="replace").partition(" ")
    started, _, host = rest.partition(" ")
    try:
        return Driver(int(number), host or socket.gethostname()), float(started)  # an earlier version wrote no host
    except ValueError:
        return None


def _try_lock(descriptor: int) -> bool:
    """Tries for half a second: somebody who only asks who holds the lock holds it for an instant."""
    for _ in range(10):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            time.sleep(0.05)
        else:
            return True
    return False
