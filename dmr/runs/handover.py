"""A finished epoch is saved by a thread while the next one is trained, and handed on once it is saved."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from types import TracebackType
from typing import Any, Generic, TypeVar

from dmr.checkpoints import snapshot

R = TypeVar("R")
PATIENCE_SECONDS = 0.1  # saving takes this long where it is Python's work, beside which nothing could be trained


class Handover(Generic[R]):
    """One epoch at a time: it is in the hands of the thread from `give` until `look` or `finish` hands it on.

    At the end of its block, also where that fails, the last epoch is saved and handed on; where the process is told to
    end it is only saved.
    """

    def __init__(self, save: Callable[[dict[str, Any], bool], None], report: Callable[[R], None]) -> None:
        self.save, self.report = save, report
        self.thread = ThreadPoolExecutor(1, "checkpoint")
        self.pending: tuple[Future[None], R] | None = None

    def give(self, report: R, state: dict[str, Any], is_best: bool) -> None:
        """Begin to save an epoch, as its state is now. The one before is finished first."""
        self.finish()
        saved = self.thread.submit(self.save, snapshot(state), is_best)
        self.pending = saved, report
        wait([saved], PATIENCE_SECONDS)
        self.look()

    def look(self) -> None:
        """Hand the epoch on if it is saved by now; raises as `finish`."""
        if self.pending is not None and self.pending[0].done():
            self.finish()

    def finish(self) -> None:
        """Wait until the epoch is saved, and hand it on.

        Raises:
            Exception: whatever `save` or `report` raise.
        """
        if self.pending is not None:
            (saved, report), self.pending = self.pending, None
            saved.result()
            self.report(report)

    def __enter__(self) -> Handover[R]:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with self.thread:
            if kind is None or issubclass(kind, Exception):
                self.finish()
