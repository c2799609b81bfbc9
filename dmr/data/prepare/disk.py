"""Writing so that a full disk is one error that names the file, and what is said to be written is on the disk."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Rows:
    """A .npy file that is written by rows, through `write` and not a memory map: a full disk is then an error, not a
    signal that kills.
    """

    file: Path
    dtype: str
    shape: tuple[int, ...]

    @property
    def name(self) -> str:
        return self.file.stem

    def create(self, count: int) -> None:
        """A file of `count` rows that takes no space yet."""
        with named(self.file):
            np.lib.format.open_memmap(self.file, "w+", np.dtype(self.dtype), (count, *self.shape))

    def write(self, row: int, values: npt.NDArray[Any]) -> None:
        assert (values.dtype.name, values.shape) == (self.dtype, self.shape), f"{self.name}: {values.shape}"
        with named(self.file), self.file.open("r+b") as file:
            file.seek(_header_bytes(self.file) + row * values.nbytes)
            file.write(values.tobytes())


@lru_cache(maxsize=64)
def _header_bytes(file: Path) -> int:
    with file.open("rb") as stream:
        np.lib.format.read_magic(stream)
        np.lib.format.read_array_header_1_0(stream)
        return stream.tell()


def sync(path: Path) -> None:
    """Wait until a file or folder is on the disk."""
    with named(path):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextmanager
def named(file: Path) -> Iterator[None]:
    """Writing errors do not say which file they are about."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(file)) from None


def gigabytes(size: int) -> str:
    return f"{size / 1e9:.3g} GB"


def write_text(file: Path, text: str) -> None:
    """Write a file so that it is there whole or not at all."""
    partial = file.with_name(file.name + ".partial")
    with named(file):
        partial.write_text(text, encoding="utf-8")
        sync(partial)
        partial.replace(file)
    sync(file.parent)
