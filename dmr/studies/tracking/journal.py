"""A file of JSON lines that survives a kill: what is to be shipped to MLflow, in the order in which it happened."""

from __future__ import annotations

import json
import os
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Record = dict[str, Any]
READ_AT_ONCE = 2_000


class Journal:
    """Appends whole lines; a line torn by a kill is cut off when the file is opened again. Safe for two threads."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._file = open(path, "a+b", buffering=0)  # noqa: SIM115  # closed by close()
        self.end = self._whole_lines()
        self._file.truncate(self.end)
        first = next(self.read(0), None)
        self.id = first[0]["id"] if first else uuid.uuid4().hex
        if first is None:
            self.append({"op": "journal", "id": self.id})

    def append(self, record: Record, durable: bool = False) -> None:
        """Write one record; `durable` waits for the disk.

        Raises:
            OSError: it could not be written; the file is as it was before.
        """
        line = json.dumps(record, separators=(",", ":")).encode() + b"\n"
        with self._lock:
            try:
                if self._file.write(line) != len(line):
                    raise OSError("the disk is full")
                if durable:
                    os.fsync(self._file.fileno())
            except OSError:
                self._file.truncate(self.end)
                raise
            self.end += len(line)

    def read(self, offset: int) -> Iterator[tuple[Record, int]]:
        """The records from `offset` on, up to `READ_AT_ONCE`, each with the offset after it."""
        with open(self.path, "rb") as file:
            file.seek(offset)
            for _ in range(READ_AT_ONCE):
                if offset >= self.end:
                    return
                line = file.readline()
                offset += len(line)
                yield json.loads(line), offset

    def read_all(self) -> Iterator[Record]:
        """All records."""
        offset = 0
        while offset < self.end:
            for record, after in self.read(offset):
                offset = after
                yield record

    def close(self) -> None:
        self._file.close()

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
