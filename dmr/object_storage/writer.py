"""What a study keeps in object storage, as the one process that drives it writes it: in order, in the background."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from dmr.object_storage.lease import Lease
from dmr.object_storage.segments import LeaseLost, SegmentLog
from dmr.object_storage.store import TRY_AGAIN_AFTER, ObjectStore, StoreAway, StoreRefused

log = logging.getLogger("dmr")

LOG = "log"  # the folder of the log's segments
COMMIT_EVERY = 1.0  # seconds: what is lost with this process at most, and told again by whoever goes on
BEFORE_CLOSING = 600.0
AT_ONCE = 4  # uploads
DELETED_AT_ONCE = 1_000  # what S3 takes in a request


class _Task(NamedTuple):
    """Something to do before the line `at` of the log is written or, where that is said, once all before it are."""

    at: int
    do: Callable[[], None]


class StoreWriter:
    """Writes a log's lines, files before the lines that tell of them, and then deletes what nobody needs any more, in a
    thread that nobody waits for.

    What is asked for waits in memory while the store is away. The log is always a beginning of what happened.

    Attributes:
        away: why the store cannot be written now; None where it can.
        error: why nothing is written any more, such as that another driver has the lease.
    """

    def __init__(self, store: ObjectStore, folder: Path) -> None:
        """Take the lease and read the log.

        Args:
            folder: the files here whose objects these are.

        Raises:
            LeaseHeld: another driver has it.
            StoreRefused, StoreAway: the store cannot be written.
            ValueError: what is there is damaged.
        """
        self.store, self.folder = store, folder
        self.away: str | None = None
        self.error: str | None = None
        self.lease = Lease(store)
        try:
            self.log = SegmentLog(ObjectStore(f"{store.url}/{LOG}"), self.lease)
        except BaseException:
            self.lease.give_back()
            raise
        self._before: deque[_Task] = deque()
        self._after: deque[_Task] = deque()
        self._superfluous: deque[tuple[int, str]] = deque()
        self._lock = threading.Lock()
        self._threads = ThreadPoolExecutor(AT_ONCE, "store-writer")
        self._wake, self._closing = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._work, name="store-writer", daemon=True)
        self._thread.start()

    def append(self, line: bytes) -> None:
        """Add a line to the log, without its line break."""
        with self._lock:
            self.log.append(line)

    def upload(self, file: Path, key: str | None = None, after: bool = False) -> None:
        """Write a file of the folder, as it is when its turn comes, before the lines that are appended from now on.

        Args:
            key: another one than the file's path in the folder.
            after: not before all lines until now are written, either.
        """
        key = key or file.relative_to(self.folder).as_posix()

        def write() -> None:
            try:
                self.store.upload(key, file)
            except StoreAway:
                raise
            except OSError as error:  # deleted since
                log.info("%s was not written to %s: %s", file, self.store.url, error)

        with self._lock:
            (self._after if after else self._before).append(_Task(len(self.log.lines), write))

    def fetch(self, path: Path) -> None:
        """Copy the object of a file of the folder here, or those below one; there may be none.

        Raises:
            StoreRefused, StoreAway: the store cannot be read.
        """
        key = path.relative_to(self.folder).as_posix()
        path.parent.mkdir(parents=True, exist_ok=True)
        if self.store.download(key, path) is None:
            for one in self.keys(path):
                file = self.folder / one
                file.parent.mkdir(parents=True, exist_ok=True)
                self.store.download(one, file)

    def keys(self, folder: Path) -> list[str]:
        """The objects of the folder, or of one below it."""
        prefix = folder.relative_to(self.folder).as_posix()
        return [entry.key for entry in self.store.entries("" if prefix == "." else prefix)]

    def delete(self, keys: Iterable[str]) -> None:
        """Delete objects, which need not be there, once all lines until now are written."""
        with self._lock:
            self._superfluous += [(len(self.log.lines), key) for key in keys]

    def delete_unlike(self, folder: Path) -> None:
        """Delete the objects of a folder below that of the study whose files are not there, once all lines until now
        are written.
        """

        def write() -> None:
            self.store.delete([key for key in self.keys(folder) if not (self.folder / key).exists()])

        with self._lock:
            self._after.append(_Task(len(self.log.lines), write))

    def flush(self) -> bool:
        """Wait until everything is written; False where that cannot be, or the store stays away."""
        until = time.monotonic() + BEFORE_CLOSING
        while not self._idle and self._thread.is_alive() and time.monotonic() < until:
            self._wake.set()
            time.sleep(0.02)
        return self._idle

    def close(self) -> None:
        """Write what is left, unless the store is away, and give the lease back."""
        if self.away is None:
            self.flush()
        self._closing.set()
        self._wake.set()
        self._thread.join()
        self._threads.shutdown()
        self.lease.give_back()

    @property
    def _idle(self) -> bool:
        with self._lock:
            waiting = self._before or self._after or self._superfluous
            return not waiting and self.log.committed == len(self.log.lines)

    def _work(self) -> None:
        wait = COMMIT_EVERY
        while not self._closing.is_set() and self.error is None:
            self._wake.wait(wait)
            self._wake.clear()
            try:
                self._write()
                wait = COMMIT_EVERY
                if self.away is not None:
                    log.warning("%s can be written again", self.store.url)
                self.away = None
            except (StoreAway, StoreRefused) as error:  # rights may come back; if not, somebody else takes the lease
                if self.away is None:
                    log.warning("%s; running trials go on, new ones wait", error)
                self.away, wait = str(error), TRY_AGAIN_AFTER
            except LeaseLost as error:
                self.error = str(error)
            except Exception as error:  # nobody would be told that this thread has ended
                log.info("%s: nothing more is written", self.store.url, exc_info=True)
                self.error = f"{self.store.url}: {type(error).__name__}: {error}"

    def _write(self) -> None:
        with self._lock:
            lines, before = len(self.log.lines), list(self._before)
        for number in range(0, len(before), AT_ONCE):
            some = before[number : number + AT_ONCE]
            for done in [self._threads.submit(task.do) for task in some]:
                done.result()
            for _ in some:
                self._before.popleft()
        self.log.commit(lines)
        while self._after and self._after[0].at <= lines:
            self._after[0].do()
            self._after.popleft()
        keys = list(islice((key for at, key in list(self._superfluous) if at <= lines), DELETED_AT_ONCE))
        if keys:
            self.store.delete(keys)
            for _ in keys:
                self._superfluous.popleft()
