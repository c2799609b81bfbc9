"""The lease of one driver on what lies below a URL, seen from every machine.

`lease.json` says who has it, its number and until when. It is made only where there is none, renewed and taken over
only where it is still the one that was read, so that two drivers never hold one. A driver that cannot renew it writes
nothing from `MARGIN` seconds before anybody else may take it over; where nobody did, it is renewed when the store is
back. That of a process that is known to be dead, since it ran on this very machine, is taken over at once.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from dmr.object_storage.store import TRY_AGAIN_AFTER, ObjectChanged, ObjectExists, ObjectStore, StoreAway, StoreRefused

log = logging.getLogger("dmr")

KEY = "lease.json"
SECONDS, RENEW_AFTER, MARGIN = 90.0, 20.0, 15.0  # MARGIN covers clocks that differ


class LeaseHeld(Exception):
    """Another driver has the lease.

    Attributes:
        holder: that driver.
    """

    def __init__(self, holder: Holder) -> None:
        super().__init__(str(holder))
        self.holder = holder


class Holder(NamedTuple):
    """Who has, or had, a lease.

    Attributes:
        number: counts the drivers; what an earlier one still writes is known by it.
        expires: seconds since 1970, by the holder's clock; 0 once it has given the lease back.
        token: differs between any two times that somebody has taken the lease.
        machine: what tells the system that process numbers are of from any other; None where that cannot be known.
        started: when the process was started, in ticks of that system's clock.
    """

    process: int
    host: str
    number: int
    expires: float
    token: str
    machine: str | None = None
    started: int = 0

    @property
    def dead(self) -> bool:
        """Whether the process is known to have ended: only that can tell who runs where process numbers are its own."""
        return self.machine is not None and self.machine == _machine() and self.started != _started(self.process)

    def __str__(self) -> str:
        return f"process {self.process} on {self.host}"

    def encode(self) -> bytes:
        return json.dumps(self._asdict()).encode()


def parse_holder(data: bytes) -> Holder:
    """Raises:
    ValueError: the file is damaged.
    """
    try:
        found = json.loads(data)
        return Holder(
            int(found["process"]),
            str(found["host"]),
            int(found["number"]),
            float(found["expires"]),
            str(found["token"]),
            found["machine"],
            int(found["started"]),
        )
    except (TypeError, KeyError) as error:
        raise ValueError(f"{KEY}: no lease: {error}") from None


def _machine() -> str | None:
    """This run of the system and the namespace of its process numbers, which no other container has."""
    try:
        booted = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{booted}/{os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:  # not Linux
        return None


def _started(process: int) -> int | None:
    """When a process was started; None where there is none."""
    try:
        stat = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    return int(stat.rpartition(")")[2].split()[19])  # the 22nd field; the second, a name, may have spaces in it


class Lease:
    """A lease that this process has taken, renewed by a thread until it is given back or lost."""

    def __init__(self, store: ObjectStore, clock: Callable[[], float] = time.time) -> None:
        """Take the lease.

        Raises:
            LeaseHeld: another driver has it.
            StoreRefused, StoreAway: the store cannot be asked.
            ValueError: `lease.json` is damaged.
        """
        self.store, self._clock = store, clock
        self._lost = threading.Event()
        self._closing = threading.Event()
        started = time.monotonic()
        self.holder, self._tag = self._take()
        self._until = started + SECONDS - MARGIN
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)
        self._thread.start()

    @property
    def number(self) -> int:
        return self.holder.number

    @property
    def held(self) -> bool:
        """Whether this process has the lease now. One that has ended, since the store was away, is renewed where nobody
        has taken it meanwhile.
        """
        return not self.lost and time.monotonic() <= self._until

    @property
    def lost(self) -> bool:
        """Whether somebody else has taken the lease, or it was given back: it never comes back."""
        return self._lost.is_set()

    def give_back(self) -> None:
        """Let the next driver have it at once."""
        self._closing.set()
        self._thread.join()
        if self.held:
            try:
                self._tag = self.store.replace(KEY, self.holder._replace(expires=0.0).encode(), self._tag)
            except (ObjectChanged, StoreAway, StoreRefused) as error:
                log.info("the lease of %s was not given back: %s", self.store.url, error)
            self._lost.set()

    def _take(self) -> tuple[Holder, str]:
        while True:
            found = self.store.read(KEY)
            before = None if found is None else parse_holder(found.data)
            if before is not None and before.expires + MARGIN > self._clock() and before.expires and not before.dead:
                raise LeaseHeld(before)
            mine = Holder(
                os.getpid(),
                socket.gethostname(),
                1 if before is None else before.number + 1,
                self._clock() + SECONDS,
                f"{os.getpid()}-{time.time_ns()}",
                _machine(),
                _started(os.getpid()) or 0,
            )
            try:
                if found is None:
                    return mine, self.store.create(KEY, mine.encode())
                return mine, self.store.replace(KEY, mine.encode(), found.tag)
            except (ObjectExists, ObjectChanged):
                now = self.store.read(KEY)
                if now is not None and parse_holder(now.data) == mine:  # the answer to an earlier try was lost
                    return mine, now.tag

    def _renew(self) -> None:
        wait = RENEW_AFTER
        while not self._closing.wait(wait):
            try:
                self._renew_once()
                wait = RENEW_AFTER
            except ObjectChanged:
                self._lost.set()
                return
            except (StoreAway, StoreRefused) as error:  # rights may come back
                log.info("the lease of %s: %s", self.store.url, error)
                wait = TRY_AGAIN_AFTER

    def _renew_once(self) -> None:
        """Raises:
        ObjectChanged: somebody else has it.
        """
        started, renewed = time.monotonic(), self.holder._replace(expires=self._clock() + SECONDS)
        try:
            self._tag = self.store.replace(KEY, renewed.encode(), self._tag)
        except ObjectChanged:
            now = self.store.read(KEY)
            if now is None or parse_holder(now.data).token != self.holder.token:
                raise
            self._tag = now.tag  # an earlier try had arrived
            self._tag = self.store.replace(KEY, renewed.encode(), self._tag)
        self.holder, self._until = renewed, started + SECONDS - MARGIN
