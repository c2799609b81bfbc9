"""Progress of a stage while it runs: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import logging
import time
from typing import TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from dmr.studies.stages.stage import Stage
from dmr.studies.storage.store_passwords import mask_password
from dmr.studies.trial_outcomes import FAILURES

log = logging.getLogger("dmr")


class _Lines(logging.Handler):
    """Shows the log's warnings to people, above the live table."""

    def __init__(self, console: Console) -> None:
        super().__init__(logging.WARNING)
        self.console = console

    def emit(self, record: logging.LogRecord) -> None:
        self.console.print(Text(mask_password(record.getMessage()), style="yellow"), soft_wrap=True)


class Screen:
    """Shows the progress of one stage."""

    def __init__(self, stage: Stage, stream: TextIO) -> None:
        self.stage = stage
        self.console = Console(file=stream, highlight=False)
        self.started = time.monotonic()
        self.finished_before = stage.finished
        self.live = Live(console=self.console, get_renderable=self.render, refresh_per_second=4, transient=True)
        self.handler = _Lines(self.console)

    def __enter__(self) -> Screen:
        log.addHandler(self.handler)
        if self.console.is_terminal:
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.live.stop()
        log.removeHandler(self.handler)

    def say(self, text: str) -> None:
        self.console.print(text, soft_wrap=True)

    def trial_ended(self) -> None:
        """A trial has ended: a line, where there is no live table."""
        if not self.console.is_terminal:
            best = f", {self.best()}" if self.stage.best else ""
            self.say(f"{self.stage.finished}/{self.total} {self.stage.noun}s{best}, {self.time_left()}")

    @property
    def total(self) -> int:
        return self.stage.total

    def best(self) -> str:
        assert self.stage.best is not None
        number, values = self.stage.best
        metric = self.stage.objectives[0].metric
        return f"best {metric} {values.objective:.4f} (trial {number}, worst combination {values.worst:.4f})"

    def time_left(self) -> str:
        done = self.stage.finished - self.finished_before
        left = self.total - self.stage.finished
        if not left or not done:
            return "starting" if left else "done"
        seconds = (time.monotonic() - self.started) / done * left
        return f"about {seconds / 60:.0f} min left" if seconds >= 90 else f"about {seconds:.0f} s left"

    def render(self) -> Group:
        stage = self.stage
        table = Table.grid(padding=(0, 2))
        failed = sum(stage.outcomes[reason] for reason in FAILURES)
        table.add_row(
            Text(stage.study.study_name, style="bold"),
            ProgressBar(total=self.total, completed=stage.finished, width=30),
            f"{stage.finished}/{self.total}",
            f"running {len(stage.live)}",
            f"completed {stage.outcomes['completed']}",
            f"pruned {stage.outcomes['pruned']}",
            Text(f"failed {failed}", style="red" if failed else "dim"),
            self.time_left(),
        )
        lines: list[Table | Text] = [table]
        if stage.best:
            lines.append(Text(self.best(), style="green"))
        if stage.tracker.error:
            lines.append(Text(f"MLflow: {stage.tracker.error} (kept in the journal)", style="yellow"))
        if stage.writer is not None and stage.writer.away:
            lines.append(Text(f"{stage.writer.away} (kept until it is back)", style="yellow"))
        if stage.retry_queue.error:
            lines.append(Text(f"Optuna: {stage.retry_queue.error} (kept until it is back)", style="yellow"))
        return Group(*lines)
