"""Write a release into the `arrays` layout: its splits one by one, then the manifest, dataset.yaml last of all.

A folder without dataset.yaml is not a data set, so what is half-written is never taken for whole.
"""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from dmr.data.dataset import DataError
from dmr.data.prepare.disk import gigabytes, named, write_text
from dmr.data.prepare.manifest import describe, make_manifest
from dmr.data.prepare.pool import Pool
from dmr.data.prepare.release import Release
from dmr.data.prepare.split import Bad, PrepareError, Progress, complete, fill, tidy

BEGUN, MANIFEST, DESCRIPTION, BAD_FILES = "prepare.json", "manifest.json", "dataset.yaml", "bad_files.txt"
SHOWN = 20


class BadFilesError(PrepareError):
    """Samples that cannot be read: a line each, then what to do."""

    def __init__(self, lines: list[str]) -> None:
        super().__init__("\n".join(lines))
        self.lines = lines


class Prepared(NamedTuple):
    """What is in the folder: samples and left-out samples by split; whether it was there before."""

    samples: dict[str, int]
    skipped: dict[str, int]
    already: bool


def prepare(release: Release, out: Path, *, workers: int, skip_bad: bool, progress: Progress) -> Prepared:
    """Write `release` to the folder `out`, going on with what an interrupted run has left there.

    Raises:
        DataError: `out` holds something else, or the disk is too small; nothing is written.
        BadFilesError: samples cannot be read, and `skip_bad` is off; all others are written and kept for the next run.
        PrepareError, OSError: the work failed; what is done is kept for the next run.
    """
    identity = release.identity()
    if (out / DESCRIPTION).exists():
        return _prepared_before(release, out, identity)
    _check_unused(release, out)
    _check_space(release, out)
    with _begun(release, out, identity):
        with Pool(workers) as pool:
            bad = _write_splits(release, out, pool, skip_bad, progress)
        if bad and not skip_bad:
            raise BadFilesError(_report(release, out, bad))
        (out / BAD_FILES).unlink(missing_ok=True)
        manifest = make_manifest(release, out, identity)
        write_text(out / MANIFEST, json.dumps(manifest, indent=1))
        write_text(out / DESCRIPTION, describe(release, manifest))
        (out / BEGUN).unlink()
    return _counts(manifest, already=False)


def _write_splits(release: Release, out: Path, pool: Pool, skip_bad: bool, progress: Progress) -> dict[str, list[Bad]]:
    """What cannot be read, by split; a split is whole where there is none, or it is left out."""
    found = {}
    for split in release.splits:
        if (out / split).exists():
            tidy(out, split)
            continue
        bad = fill(release, split, out, pool, progress)
        if bad:
            found[split] = bad
        if skip_bad or not bad:
            complete(release, split, out, bad)
    return found


def _prepared_before(release: Release, out: Path, identity: str) -> Prepared:
    try:
        manifest = json.loads((out / MANIFEST).read_text(encoding="utf-8"))
        same = manifest["identity"] == identity
    except (OSError, ValueError, KeyError, TypeError):
        same = False
    if not same:
        raise DataError(
            f"{out / DESCRIPTION}: another data set is there already, or {release.name} from other lists or settings; "
            "give another --out, or remove it"
        )
    (out / BEGUN).unlink(missing_ok=True)
    return _counts(manifest, already=True)


def _check_unused(release: Release, out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise DataError(f"{out}: a folder is needed, this is a file")
    for split in release.splits:
        for name in (split, f"{split}.partial"):
            if (out / name).exists() and not (out / BEGUN).exists():
                raise DataError(f"{out / name}: there already, and not from `dmr data prepare`; give another --out")


def _check_space(release: Release, out: Path) -> None:
    """Refuse a disk that is too small.

    Raises:
        DataError: less is free than what is still to be written.
    """
    there = [file for split in release.splits for file in out.glob(f"{split}*/*.npy")]
    written = sum(512 * file.stat().st_blocks for file in there)
    needed = release.sample_bytes() * sum(map(len, release.splits.values())) - written
    existing = next(folder for folder in (out.absolute(), *out.absolute().parents) if folder.exists())
    free = shutil.disk_usage(existing).free
    if needed > free:
        raise DataError(f"{out}: {gigabytes(needed)} are needed, {gigabytes(free)} are free")


@contextmanager
def _begun(release: Release, out: Path, identity: str) -> Iterator[None]:
    """Hold the folder's lock, which dies with this process, and remember what is being written.

    Raises:
        DataError: another process writes here, or what was begun here is something else.
    """
    out.mkdir(parents=True, exist_ok=True)
    with (out / BEGUN).open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataError(f"{out}: another `dmr data prepare` is writing here") from None
        file.seek(0)
        text = file.read()
        if not text:
            with named(out / BEGUN):
                file.write(json.dumps({"set": release.name, "identity": identity}))
                file.flush()
        elif identity not in text:
            raise DataError(
                f"{out}: begun as another data set, or as {release.name} from other lists or settings; "
                "give another --out, or remove it"
            )
        yield


def _report(release: Release, out: Path, bad: dict[str, list[Bad]]) -> list[str]:
    """Lines for people; all of them are in bad_files.txt."""
    lines = [
        f"{release.source / b.file}: {b.reason} ({release.splits[split][b.row].listed})"
        for split, found in bad.items()
        for b in found
    ]
    write_text(out / BAD_FILES, "".join(f"{line}\n" for line in lines))
    total = sum(map(len, release.splits.values()))
    more = [f"... and {len(lines) - SHOWN} more, all in {out / BAD_FILES}"] if len(lines) > SHOWN else []
    return [
        *lines[:SHOWN],
        *more,
        f"{release.name}: {len(lines)} of {total} samples cannot be read; mend them and run again "
        "(what is done is kept), or leave them out with --skip-bad",
    ]


def _counts(manifest: dict[str, Any], already: bool) -> Prepared:
    splits = manifest["splits"]
    return Prepared(
        {split: entry["samples"] for split, entry in splits.items()},
        {split: len(entry["skipped"]) for split, entry in splits.items()},
        already,
    )
