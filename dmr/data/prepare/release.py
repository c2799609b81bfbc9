"""What a reader of an original release says about it: its samples by split, and how one of them becomes arrays."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dmr.data.dataset import DataError, Modality, Task
from dmr.data.prepare.files import Files

SPLIT_SEED = 0
IMAGENET = {"mean": [123.675, 116.28, 103.53], "std": [58.395, 57.12, 57.375]}  # of RGB in 0 to 255

Arrays = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Sample:
    """One sample of a release.

    Attributes:
        name: what it is called in reports.
        listed: where it is named, for messages: `train.csv, line 3`.
        files: what it is read from, relative to the source.
        label: its class; None where that is read with the sample (label maps).
    """

    name: str
    listed: str
    files: tuple[str, ...]
    label: int | None = None


@dataclass(frozen=True)
class Stored:
    """A modality, the type its values are stored in, and what else dataset.yaml says about it."""

    modality: Modality
    dtype: str
    about: Mapping[str, Any] = field(default_factory=dict)


def stored_audio(how: str, rate: int, seconds: int, n_fft: int, hop: int) -> Stored:
    """`audio`, the log-spectrogram of a clip (see `dmr.data.prepare.spectrogram`); `how` it is cut and scaled."""
    shape = (1, n_fft // 2 + 1, 1 + rate * seconds // hop)
    about = {"stored": how, "rate": rate, "seconds": seconds, "n_fft": n_fft, "hop": hop}
    return Stored(Modality("audio", "spectrogram", shape), "float16", about)


def stored_frame(side: int) -> Stored:
    """`video`, the middle frame of a clip, as `dmr.data.prepare.files.square` cuts it."""
    how = f"the middle frame, shorter edge {side}, centre crop; training crops 224 out of it"
    return Stored(Modality("video", "image", (3, side, side)), "uint8", {"stored": how, **IMAGENET})


@dataclass(frozen=True)
class Release:
    """A data set as its authors publish it.

    Attributes:
        read: one sample's arrays, (*shape) by modality and `label`; pure and picklable. Raises BadFile.
        hashed: lists and other files that belong to all samples, relative to the source.
        about: further keys of dataset.yaml: source, licence, how the splits came about.
    """

    name: str
    source: Path
    task: Task
    class_names: tuple[str, ...]
    stored: tuple[Stored, ...]
    label_shape: tuple[int, ...]
    splits: Mapping[str, tuple[Sample, ...]]
    read: Callable[[Sample, Files], Arrays]
    hashed: tuple[str, ...]
    about: Mapping[str, Any]
    ignore_index: int | None = None

    def layout(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Type and shape of one sample's arrays, `label` among them."""
        inputs = {stored.modality.name: (stored.dtype, stored.modality.shape) for stored in self.stored}
        return inputs | {"label": ("int64", self.label_shape)}

    def sample_bytes(self) -> int:
        """What one sample takes on disk."""
        return sum(np.dtype(dtype).itemsize * math.prod(shape) for dtype, shape in self.layout().values())

    def identity(self) -> str:
        """SHA-256 over all that decides what is written, but the content of the samples' files."""
        samples = {split: [[s.name, s.files, s.label] for s in listed] for split, listed in self.splits.items()}
        decides = [self.name, self.layout(), self.class_names, self.ignore_index, dict(self.about), samples]
        return hashlib.sha256(json.dumps(decides).encode()).hexdigest()


def read_lines(file: Path) -> Iterator[tuple[str, str]]:
    """The lines of a list that are not blank, each with where it stands (`train.csv, line 3`); a BOM is no part of it.

    Raises:
        DataError: the list cannot be read, is not text or has no lines.
    """
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        raise DataError(f"{file}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: cannot be read: {error}") from None
    if not any(line.strip() for line in lines):
        raise DataError(f"{file}: no samples")
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield f"{file}, line {number}", line.strip()


def split_line(where: str, line: str, names: tuple[str, ...], separator: str | None) -> list[str]:
    """The fields of a list's line.

    Raises:
        DataError: not as many as `names`, or an empty one.
    """
    found = [part.strip() for part in line.split(separator)]
    if len(found) != len(names) or not all(found):
        form = (separator or " ").join(names)
        raise DataError(f"{where}: `{form}` is needed, got {line!r}")
    return found


def check_folder(folder: Path) -> Path:
    """The folder, if it can be listed.

    Raises:
        DataError: no such folder, or it cannot be read.
    """
    try:
        next(folder.iterdir(), None)
    except FileNotFoundError:
        raise DataError(f"{folder}: no such folder") from None
    except OSError as error:
        raise DataError(f"{folder}: cannot be read: {error.strerror}") from None
    return folder
