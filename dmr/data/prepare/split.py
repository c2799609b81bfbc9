"""Write one split: rows of .npy files in a `.partial` folder, with a log of what is done, renamed when it is whole."""

from __future__ import annotations

import csv
import math
import shutil
from collections.abc import Callable, Iterable
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dmr.data.prepare.disk import Rows, gigabytes, named, sync
from dmr.data.prepare.done_log import LOG, Done, DoneLog
from dmr.data.prepare.files import BadFile, Files
from dmr.data.prepare.pool import Pool
from dmr.data.prepare.release import Arrays, Release, Sample

BATCH = 8
SAMPLES, SKIPPED = "samples.csv", "skipped.csv"

Progress = Callable[[str, int, int], None]  # split, samples done, samples in all


class PrepareError(RuntimeError):
    """The work failed, in one line; what is done is kept for the next run."""


class Bad(NamedTuple):
    """A row that cannot be read: which file, and why."""

    row: int
    file: str
    reason: str


class Batch(NamedTuple):
    """What a process needs to read some samples and write their rows."""

    source: Path
    read: Callable[[Sample, Files], Arrays]
    outputs: tuple[Rows, ...]
    samples: tuple[tuple[int, Sample], ...]


def write_batch(batch: Batch) -> list[Done | Bad]:
    """Read the samples of a batch and write their rows; returns what became of each.

    Raises:
        OSError: a row cannot be written; it names the file.
    """
    outcomes: list[Done | Bad] = []
    for row, sample in batch.samples:
        files = Files(batch.source)
        try:
            arrays = batch.read(sample, files)
        except BadFile as error:
            outcomes.append(Bad(row, error.file, error.reason))
            continue
        for output in batch.outputs:
            output.write(row, arrays[output.name])
        outcomes.append(Done(row, files.size, files.digest.hexdigest()))
    return outcomes


def fill(release: Release, split: str, out: Path, pool: Pool, progress: Progress) -> list[Bad]:
    """Write every row of a split that is not done; returns the samples that cannot be read, in their order.

    Raises:
        OSError: the disk is full or gone.
        PrepareError: a process died.
    """
    samples = release.splits[split]
    partial = out / f"{split}.partial"
    outputs = tuple(Rows(partial / f"{name}.npy", *layout) for name, layout in release.layout().items())
    log = DoneLog(partial, outputs, len(samples))
    bad: list[Bad] = []
    rest = [(row, sample) for row, sample in enumerate(samples) if row not in log.done]
    batches = (
        Batch(release.source, release.read, outputs, tuple(rest[start : start + BATCH]))
        for start in range(0, len(rest), BATCH)
    )
    progress(split, len(log.done), len(samples))
    with log.kept():
        try:
            for outcomes in pool.results(write_batch, batches):
                log.add(outcome for outcome in outcomes if isinstance(outcome, Done))
                bad += [outcome for outcome in outcomes if isinstance(outcome, Bad)]
                progress(split, len(log.done) + len(bad), len(samples))
        except BrokenProcessPool:
            raise PrepareError(
                f"{partial}: a worker process died (out of memory?); run again to go on, with fewer --workers"
            ) from None
    return sorted(bad)


def complete(release: Release, split: str, out: Path, bad: list[Bad]) -> None:
    """Make `SPLIT.partial` the whole split, without the samples in `bad`.

    Raises:
        OSError: the disk is full or gone.
        PrepareError: no sample is left, or no room for the copy without the bad samples.
    """
    samples, partial = release.splits[split], out / f"{split}.partial"
    outputs = tuple(Rows(partial / f"{name}.npy", *layout) for name, layout in release.layout().items())
    log = DoneLog(partial, outputs, len(samples))
    rows = sorted(log.done)
    if not rows:
        raise PrepareError(f"{partial}: no sample of {split} can be read")
    folder = partial
    if bad:
        folder = _copied(partial, out / f"{split}.whole", outputs, rows)
        _write_csv(
            folder / SKIPPED,
            ("listed", "name", "file", "reason"),
            [(samples[b.row].listed, samples[b.row].name, b.file, b.reason) for b in bad],
        )
    _write_csv(
        folder / SAMPLES,
        ("row", "name", "bytes", "sha256"),
        [(new, samples[row].name, log.done[row].size, log.done[row].sha256) for new, row in enumerate(rows)],
    )
    folder.rename(out / split)
    sync(out)
    tidy(out, split)


def tidy(out: Path, split: str) -> None:
    """Remove what a whole split has left behind."""
    (out / split / LOG).unlink(missing_ok=True)
    for name in (f"{split}.partial", f"{split}.whole"):
        shutil.rmtree(out / name, ignore_errors=True)


def _copied(partial: Path, folder: Path, outputs: tuple[Rows, ...], rows: list[int]) -> Path:
    """A copy of a split with these rows alone."""
    shutil.rmtree(folder, ignore_errors=True)
    needed = len(rows) * sum(np.dtype(o.dtype).itemsize * math.prod(o.shape) for o in outputs)
    free = shutil.disk_usage(partial).free
    if needed > free:
        raise PrepareError(
            f"{partial}: {gigabytes(needed)} needed for a copy without bad samples, {gigabytes(free)} free"
        )
    folder.mkdir()
    for output in outputs:
        array = np.load(output.file, mmap_mode="r")
        copy = Rows(folder / output.file.name, output.dtype, output.shape)
        copy.create(len(rows))
        for new, row in enumerate(rows):
            copy.write(new, array[row])
        sync(copy.file)
    return folder


def _write_csv(file: Path, header: tuple[str, ...], rows: Iterable[tuple[Any, ...]]) -> None:
    with named(file), file.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream, lineterminator="\n").writerows([header, *rows])
    sync(file)
