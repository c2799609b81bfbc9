"""Paths as people write them, and files that are there whole or not at all."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def user_path(given: str | Path) -> Path:
    """A path that somebody wrote, with `~` as their home: a shell does that, but not inside a file or after `=`."""
    return Path(os.path.expanduser(given))


def write_text(path: Path, text: str, mode: int = 0o644) -> None:
    """Write a file so that it is there whole or not at all, readable by whom `mode` says."""

    def opener(name: str, flags: int) -> int:
        return os.open(name, flags, mode)

    with whole_file(path) as partial, open(partial, "w", encoding="utf-8", opener=opener) as file:
        file.write(text)


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary path to write to; it replaces `path` at the end, and is deleted if the block raises.

    Raises:
        IsADirectoryError: `path` is a directory; said before the work is done.
    """
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    partial = path.with_name(f".{path.stem}.partial{path.suffix}")
    try:
        with named(path):
            yield partial
            os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


@contextmanager
def named(path: Path) -> Iterator[None]:
    """An error of the file system that does not say which file it is about, such as that of a full disk, says it."""
    try:
        yield
    except OSError as error:
        if error.filename is not None:
            raise
        raise OSError(error.errno or errno.EIO, error.strerror or str(error), str(path)) from None
