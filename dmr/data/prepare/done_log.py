"""Which rows of a split are written: a line each, added after the rows are on the disk, so that it is true after a
kill or a power cut.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from dmr.data.prepare.disk import Rows, named, sync

LOG = "done.log"
FLUSH_SECONDS = 2.0


class Done(NamedTuple):
    """A row that is written: bytes and SHA-256 of what it was read from."""

    row: int
    size: int
    sha256: str


class DoneLog:
    """Rows that are written and on the disk; opening it makes the folder and its files where they are not there yet."""

    def __init__(self, folder: Path, outputs: tuple[Rows, ...], count: int) -> None:
        self.file = folder / LOG
        self.outputs = outputs
        self.pending: list[Done] = []
        if not self.file.exists():
            folder.mkdir(exist_ok=True)
            for output in outputs:
                output.create(count)
            sync(folder)
            self.file.touch()
        text = self.file.read_text(encoding="ascii")
        whole = text[: text.rfind("\n") + 1]  # the last line may be torn
        os.truncate(self.file, len(whole))
        self.done = {done.row: done for done in map(_parse, whole.splitlines())}
        self.flushed = time.monotonic()

    def add(self, outcomes: Iterable[Done]) -> None:
        for done in outcomes:
            self.done[done.row] = done
            self.pending.append(done)
        if time.monotonic() - self.flushed >= FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        if not self.pending:
            return
        for output in self.outputs:
            sync(output.file)
        with named(self.file), self.file.open("a", encoding="ascii") as file:
            file.write("".join(f"{done.row} {done.size} {done.sha256}\n" for done in self.pending))
        sync(self.file)
        self.pending = []
        self.flushed = time.monotonic()

    @contextmanager
    def kept(self) -> Iterator[None]:
        """What is done is logged however the work ends; an error that ended it is the one to tell."""
        try:
            yield
        except BaseException:
            with suppress(OSError):
                self.flush()
            raise
        self.flush()


def _parse(line: str) -> Done:
    row, size, sha256 = line.split()
    return Done(int(row), int(size), sha256)
