"""A log in object storage: lines that are appended in batches, each batch an object that is made and never changed.

A segment is named `LEASE-FIRST-AFTER.jsonl`: the number of the lease it was written under, its first line's number and
that of the line after its last. Whoever takes the lease begins by writing all lines there are as one segment of the
new number: from then on segments of earlier numbers do not count, nor do those that an earlier holder still writes. The
log begins at line 0 within each number, and of two segments that begin at the same line the longer one counts. So the
holder joins segments when there are `JOINED` of about a size: a log has few of them however long it gets.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable
from typing import NamedTuple

from dmr.object_storage.lease import Lease
from dmr.object_storage.store import ObjectExists, ObjectStore, StoreAway

JOINED = 32
NAME = re.compile(r"(\d{6,})-(\d{9,})-(\d{9,})\.jsonl")


class LeaseLost(Exception):
    """Another driver has the lease by now: nothing more is written."""


class Segment(NamedTuple):
    """The lines from `first` up to `after`, which does not belong to it, written under a lease's number."""

    number: int
    first: int
    after: int

    @property
    def name(self) -> str:
        return f"{self.number:06d}-{self.first:09d}-{self.after:09d}.jsonl"


def chain(names: Iterable[str]) -> list[Segment]:
    """The segments that make up the log, in order, of all there are.

    Raises:
        ValueError: lines are missing between two of them.
    """
    found = [Segment(*map(int, match.groups())) for name in names if (match := NAME.fullmatch(name))]
    number = max((one.number for one in found if one.first == 0), default=None)
    own = [one for one in found if one.number == number]
    longest: dict[int, Segment] = {}
    for one in own:
        if one.first not in longest or one.after > longest[one.first].after:
            longest[one.first] = one
    chosen, at = [], 0
    while (following := longest.get(at)) is not None and following.after > at:
        chosen.append(following)
        at = following.after
    last = max((one.after for one in own), default=0)
    if at < last:
        raise ValueError(f"lines {at} to {last - 1} of the log are missing")
    return chosen


def read_log(store: ObjectStore, names: Iterable[str] | None = None) -> list[bytes]:
    """The lines of a log.

    Args:
        names: of the objects there are, where they are known.

    Raises:
        ValueError: a segment is missing or damaged.
    """
    lines: list[bytes] = []
    for segment in chain([entry.key for entry in store.entries()] if names is None else names):
        content = store.read(segment.name)
        part = None if content is None else content.data.split(b"\n")[:-1]
        if part is None or len(part) != segment.after - segment.first:
            raise ValueError(f"{store.url}/{segment.name}: missing or damaged: put back a copy of it")
        lines += part
    return lines


class SegmentLog:
    """The log as the holder of a lease writes it. Safe for several threads.

    Attributes:
        lines: all of them.
        committed: how many of them are in the store, and `bytes_committed` their bytes.
    """

    def __init__(self, store: ObjectStore, lease: Lease) -> None:
        """Raises:
        ValueError: a segment is missing or damaged.
        """
        self.store, self.lease = store, lease
        before = [entry.key for entry in store.entries()]
        self.lines = read_log(store, before)
        self.committed = self.bytes_committed = 0
        self._levels: list[list[Segment]] = []  # segments that were joined so many times
        self._lock = threading.Lock()
        self.commit(whole=True)
        store.delete([name for name in before if NAME.fullmatch(name)])

    def append(self, line: bytes) -> None:
        """Add a line, which is written by the next `commit`."""
        self.lines.append(line)

    def commit(self, after: int | None = None, whole: bool = False) -> None:
        """Write what was appended, or the lines before `after`; when this returns, they are there.

        Raises:
            LeaseLost: another driver has the lease.
            StoreRefused, StoreAway: it could not be written; try again.
        """
        with self._lock:
            after = len(self.lines) if after is None else after
            if after <= self.committed and not whole:
                return
            segment = Segment(self.lease.number, self.committed, after)
            self.bytes_committed += self._write(segment)
            self.committed = after
            self._join(segment)

    def _join(self, segment: Segment, level: int = 0) -> None:
        """Write the segments of a level as one of the next, once there are `JOINED`."""
        if level == len(self._levels):
            self._levels.append([])
        parts = self._levels[level]
        parts.append(segment)
        if len(parts) < JOINED:
            return
        whole = Segment(segment.number, parts[0].first, segment.after)
        self._write(whole)
        self._levels[level] = []
        self.store.delete([part.name for part in parts if part != whole])
        self._join(whole, level + 1)

    def _write(self, segment: Segment) -> int:
        self._check_lease()
        data = b"".join(line + b"\n" for line in self.lines[segment.first : segment.after])
        try:
            self.store.create(segment.name, data)
        except ObjectExists:
            there = self.store.read(segment.name)
            if there is None or there.data != data:  # else the answer to an earlier try was lost
                raise LeaseLost(f"{self.store.url}/{segment.name}: was written by another driver") from None
        self._check_lease()  # else another driver may have begun without this
        return len(data)

    def _check_lease(self) -> None:
        if self.lease.lost:
            raise LeaseLost(f"{self.store.url}: the lease was lost: another driver goes on with the study")
        if not self.lease.held:
            raise StoreAway(f"{self.store.url}: the lease has ended and is not renewed yet")
