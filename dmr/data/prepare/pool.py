"""Work on batches in processes that die with their parent and leave Ctrl-C to it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from itertools import islice
from multiprocessing.context import BaseContext
from typing import TypeVar

SLOW_IMPORTS = ("dmr.data.prepare", "scipy.signal", "soundfile", "PIL.Image")

Batch = TypeVar("Batch")
Result = TypeVar("Result")


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Pool:
    """Processes that stay for all the work inside a `with`; one worker is this process."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self.executor: ProcessPoolExecutor | None = None

    def __enter__(self) -> Pool:
        if self.workers > 1:
            self.executor = ProcessPoolExecutor(self.workers, mp_context=_context(), initializer=_start_worker)
        return self

    def __exit__(self, *_: object) -> None:
        if self.executor is not None:
            self.executor.shutdown(cancel_futures=True)

    def results(self, work: Callable[[Batch], Result], batches: Iterable[Batch]) -> Iterator[Result]:
        """The results of `work` in the order they come.

        Raises:
            BrokenProcessPool: a process died.
        """
        if self.executor is None:
            yield from map(work, batches)
            return
        pending = iter(batches)
        running: set[Future[Result]] = {
            self.executor.submit(work, batch) for batch in islice(pending, 2 * self.workers)
        }
        while running:
            finished, running = wait(running, return_when=FIRST_COMPLETED)
            running |= {self.executor.submit(work, batch) for batch in islice(pending, len(finished))}
            for future in finished:
                yield future.result()


def _context() -> BaseContext:
    """Where there is one, a fork server that has imported what is slow once for all workers."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(SLOW_IMPORTS))
    return context


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A worker whose parent was killed would wait for work for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
