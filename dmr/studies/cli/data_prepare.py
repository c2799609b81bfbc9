"""`dmr data prepare`: a public data set's original release becomes arrays, with progress for people."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from dmr.analysis.results.record_names import counted
from dmr.data.dataset import DataError
from dmr.data.prepare import open_release
from dmr.data.prepare.pool import cores
from dmr.data.prepare.split import PrepareError
from dmr.data.prepare.writer import prepare
from dmr.studies.errors import StudyError

LINE_SECONDS = 30.0


def prepare_set(
    name: str,
    source: Path,
    out: Path,
    options: Mapping[str, Any],
    workers: int | None,
    skip_bad: bool,
    console: Console,
) -> int:
    """Write the set, opened with `options` (of `open_release`), and say what is there; returns the exit code.

    Raises:
        StudyError: the source, a list or `out` cannot be used.
    """
    try:
        release = open_release(name, source, **options)
        with _Progress(console) as progress:
            found = prepare(release, out, workers=workers or cores(), skip_bad=skip_bad, progress=progress.show)
    except DataError as error:
        raise StudyError(str(error)) from None
    except PrepareError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except KeyboardInterrupt:
        console.print("interrupted; the same command goes on from here", soft_wrap=True)
        raise
    for part, count in found.skipped.items():
        if count:
            samples = counted(count, "sample")
            console.print(f"{part}: {samples} left out, see {out / part / 'skipped.csv'}", soft_wrap=True)
    counts = ", ".join(f"{count} {part}" for part, count in found.samples.items())
    typer.echo(f"{out}: {name} {'is there already' if found.already else 'is ready'}: {counts}")
    return 0


class _Progress:
    """A bar per split on a terminal; elsewhere a line now and then."""

    def __init__(self, console: Console) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self.console = console
        self.bars = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self.tasks: dict[str, TaskID] = {}
        self.last = time.monotonic()

    def __enter__(self) -> _Progress:
        self.bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bars.stop()

    def show(self, split: str, done: int, total: int) -> None:
        if self.console.is_terminal:
            if split not in self.tasks:
                self.tasks[split] = self.bars.add_task(split)
            self.bars.update(self.tasks[split], completed=done, total=total)
        elif done == total or time.monotonic() - self.last >= LINE_SECONDS:
            self.last = time.monotonic()
            self.console.print(f"{split}: {done}/{total}", soft_wrap=True)
