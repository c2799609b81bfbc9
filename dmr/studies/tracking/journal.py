"""A file of JSON lines that survives a kill: what is to be shipped to MLflow, in the order in which it happened."""

from __future__ import annotations

import errno
import json
import os
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dmr.files import named
from dmr.object_storage.writer import StoreWriter
from dmr.studies.errors import StudyError

Record = dict[str, Any]
READ_AT_ONCE = 2_000


class Journal:
    """Appends whole lines; a line torn by a kill is cut off when the file is opened again. Safe for two threads."""

    def __init__(self, path: Path, writer: StoreWriter | None = None) -> None:
        """Args:
            writer: writes the log in object storage that the file is a copy of; None where the file is all there is.

        Raises:
            StudyError: a line is damaged.
        """
        self.path, self.writer = path, writer
        self._lock = threading.Lock()
        self._file = open(path, "a+b", buffering=0)  # noqa: SIM115  # closed by close()
        self.end = self._whole_lines()
        self._file.truncate(self.end)
        first = next(self.read(0), None)
        self.id = str(first[0].get("id")) if first else uuid.uuid4().hex

    def append(self, record: Record, durable: bool = False) -> None:
        """Write one record; `durable` waits for the disk.

        Raises:
            OSError: it could not be written; the file is as it was before.
        """
        line = _line(record)
        with self._lock:
            if self.end == 0:  # with the first record: a journal that was lost is not begun again by looking at it
                line = _line({"op": "journal", "id": self.id}) + line
            try:
                with named(self.path):
                    if self._file.write(line) != len(line):
                        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                    if durable and self.writer is None:
                        os.fsync(self._file.fileno())
            except OSError:
                self._file.truncate(self.end)
                raise
            self.end += len(line)
            if self.writer is not None:
                for one in line.splitlines():
                    self.writer.append(one)

    @property
    def durable_end(self) -> int:
        """Bytes that nobody can lose any more: what is told to others is of these."""
        return self.end if self.writer is None else self.writer.log.bytes_committed

    def read(self, offset: int, end: int | None = None) -> Iterator[tuple[Record, int]]:
        """The records from `offset` on, up to `end` and up to `READ_AT_ONCE`, each with the offset after it.

        Raises:
            StudyError: a line is damaged.
        """
        with open(self.path, "rb") as file:
            file.seek(offset)
            for _ in range(READ_AT_ONCE):
                if offset >= (self.end if end is None else end):
                    return
                line = file.readline()
                offset += len(line)
                yield self._record(line, offset), offset

    def read_all(self) -> Iterator[Record]:
        """All records."""
        offset = 0
        while offset < self.end:
            for record, after in self.read(offset):
                offset = after
                yield record

    def close(self) -> None:
        self._file.close()

    def starts_line(self, offset: int) -> bool:
        """Whether a record begins, or the file ends, at this offset."""
        with open(self.path, "rb") as file:
            file.seek(max(0, offset - 1))
            return offset == 0 or (offset <= self.end and file.read(1) == b"\n")

    def _record(self, line: bytes, after: int) -> Record:
        try:
            record = json.loads(line)
            if isinstance(record, dict) and "op" in record:
                return record
        except ValueError:
            pass
        with open(self.path, "rb") as file:
            number = file.read(after).count(b"\n")
        raise StudyError(f"{self.path}, line {number}: no record: the file is damaged; put back a copy of it")

    def _whole_lines(self) -> int:
        """Bytes up to the last line break."""
        size = self._file.seek(0, os.SEEK_END)
        step = 1 << 16
        end = size
        while end > 0:
            start = max(0, end - step)
            self._file.seek(start)
            found = self._file.read(end - start).rfind(b"\n")
            if found >= 0:
                return start + found + 1
            end = start
        return 0


def _line(record: Record) -> bytes:
    return json.dumps(record, separators=(",", ":")).encode() + b"\n"
