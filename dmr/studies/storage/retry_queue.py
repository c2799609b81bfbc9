"""Writes to Optuna's storage that wait for a database server which is away; trials go on meanwhile.

A server that is restarted, or a network that fails, is waited for. What a local SQLite file raises, such as a full
disk, is not: it is passed on.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from dmr.studies.storage.databases import is_outage, storage_error

log = logging.getLogger("dmr")

RETRY_AFTER, RETRY_AT_MOST = 0.5, 10.0
NOT_YET = object()  # what a write returns that has to come after something else


class RetryQueue:
    """Writes in order, each repeated until it arrives. A write may have been committed although it seemed to fail, so
    every write must be idempotent.

    Attributes:
        error: why the server cannot be reached; None where it can.
    """

    def __init__(self) -> None:
        self.error: str | None = None
        self._kept: deque[Callable[[], object]] = deque()
        self._wait, self._next_try = RETRY_AFTER, 0.0

    def put(self, write: Callable[[], object]) -> None:
        """Raises:
        Exception: what the write raises, unless the server is away.
        """
        self._kept.append(write)
        self.send()

    def send(self) -> bool:
        """Write what is kept; whether nothing is left and the server can be asked now."""
        while self._kept and not self._resting:
            with self.reaching():
                if self._kept[0]() is NOT_YET:
                    return False
                self._kept.popleft()
        return not self.waits

    @contextmanager
    def reaching(self) -> Iterator[None]:
        """What fails here because the server is away is left undone, with `error` set."""
        try:
            yield
        except Exception as error:
            if not is_outage(error):
                raise
            reason = storage_error(error)
            log.info("Optuna's storage: %s; trying again in %.1f s", reason, self._wait)
            if self.error is None:
                log.warning("Optuna's storage cannot be reached: %s; running trials go on, new ones wait", reason)
            self.error, self._next_try = reason, time.monotonic() + self._wait
            self._wait = min(2 * self._wait, RETRY_AT_MOST)
        else:
            if self.error is not None:
                log.warning("Optuna's storage is back")
            self.error, self._wait = None, RETRY_AFTER

    @property
    def waits(self) -> bool:
        """Whether something is kept, or the server cannot be asked now."""
        return bool(self._kept) or self._resting

    @property
    def _resting(self) -> bool:
        return self.error is not None and time.monotonic() < self._next_try
