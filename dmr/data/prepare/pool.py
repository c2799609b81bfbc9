"""Work on batches in processes that die with their parent and leave Ctrl-C to it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from itertools import islice
from multiprocessing.context import BaseContext
from typing import TypeVar

Batch = TypeVar("Batch")
Result = TypeVar("Result")


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_processes(
    work: Callable[[Batch], Result], batches: Iterable[Batch], workers: int
) -> Generator[Result, None, None]:
    """The results of `work` in the order they come; one worker is this process.

    Raises:
        BrokenProcessPool: a process died.
    """
    if workers == 1:
        yield from map(work, batches)
        return
    pending = iter(batches)
    pool = ProcessPoolExecutor(workers, mp_context=_context(), initializer=_start_worker)
    try:
        running: set[Future[Result]] = {pool.submit(work, batch) for batch in islice(pending, 2 * workers)}
        while running:
            finished, running = wait(running, return_when=FIRST_COMPLETED)
            running |= {pool.submit(work, batch) for batch in islice(pending, len(finished))}
            for future in finished:
                yield future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _context() -> BaseContext:
    """Where there is one, a fork server that has imported torch once for all workers."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["dmr.data.prepare"])
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
