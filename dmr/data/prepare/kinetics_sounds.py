"""Kinetics-Sounds: 31 actions that can be heard and seen.

Source: Arandjelovic and Zisserman, "Look, Listen and Learn", ICCV 2017; transforms as in DMRNet's released code.
On disk:
    {train,test}/video/<label>/<clip>/frame_*.jpg
    {train,test}/audio/<label>/<clip>.wav
    my_train.txt, my_test.txt: `clip,10,label`
Audio and frames of a clip are paired by its name. A label is a name or the number of a class.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dmr.data.dataset import DataError
from dmr.data.prepare.files import Files, square
from dmr.data.prepare.release import (
    Arrays,
    Release,
    Sample,
    check_folder,
    read_lines,
    split_line,
    stored_audio,
    stored_frame,
)
from dmr.data.prepare.spectrogram import log_spectrogram, repeated, resampled

CLASSES = 31
RATE, SECONDS, N_FFT, HOP = 16_000, 5, 256, 128
SIDE = 256


def kinetics_sounds(source: Path) -> Release:
    """The release below `source`.

    Raises:
        DataError: a folder or list is missing, or a list's line cannot be used.
    """
    check_folder(source)
    lines = {split: _lines(source / f"my_{split}.txt") for split in ("train", "test")}
    class_names = _class_names([label for _, _, label in lines["train"]])
    splits = {split: tuple(_sample(source, split, line, class_names) for line in lines[split]) for split in lines}
    return Release(
        name="kinetics_sounds",
        source=source,
        task="classification",
        class_names=class_names,
        stored=(
            stored_audio(
                "log-spectrogram of the middle of the clip, in all splits; shorter clips are repeated",
                RATE,
                SECONDS,
                N_FFT,
                HOP,
            ),
            stored_frame(SIDE),
        ),
        label_shape=(),
        splits=splits,
        read=read_clip,
        hashed=("my_train.txt", "my_test.txt"),
        about={
            "source": "Kinetics-Sounds, Arandjelovic and Zisserman 2017",
            "split": "my_train.txt and my_test.txt; no val is published: it is split from train when the set is opened",
        },
    )


def read_clip(sample: Sample, files: Files) -> Arrays:
    """`audio` (1, 129, 626), `video` (3, 256, 256) and `label`.

    Raises:
        BadFile: the audio or the frame cannot be used.
    """
    audio_file, frames = sample.files
    length = RATE * SECONDS
    samples = repeated(resampled(files.audio(audio_file), RATE), length)
    start = (len(samples) - length) // 2
    return {
        "audio": log_spectrogram(samples[start : start + length], N_FFT, HOP)[None].astype(np.float16),
        "video": square(files.image(files.middle_frame(frames)), SIDE),
        "label": np.asarray(sample.label, dtype=np.int64),
    }


def _lines(file: Path) -> list[tuple[str, str, str]]:
    """Where a line stands, its clip and its label, written as folders are: `tap dancing` is tap_dancing."""
    lines = []
    for where, line in read_lines(file):
        clip, _, label = split_line(where, line, ("id_start_end", "10", "label"), ",")
        lines.append((where, clip, "_".join(label.split())))
    return lines


def _class_names(labels: list[str]) -> tuple[str, ...]:
    if all(label.isdigit() for label in labels):
        return tuple(map(str, range(CLASSES)))
    return tuple(sorted(set(labels)))


def _sample(source: Path, split: str, line: tuple[str, str, str], class_names: tuple[str, ...]) -> Sample:
    where, clip, label = line
    if label not in class_names:
        allowed = f"0 to {CLASSES - 1}" if class_names[0] == "0" else "those of my_train.txt"
        raise DataError(f"{where}: label {label!r}; allowed are {allowed}")
    audio, video = (_folder(source, f"{split}/{kind}", label) for kind in ("audio", "video"))
    return Sample(clip, where, (f"{audio}/{clip}.wav", f"{video}/{clip}"), class_names.index(label))


def _folder(source: Path, parent: str, label: str) -> str:
    """A class's folder, whether it is spelled with blanks or with underscores."""
    spoken = f"{parent}/{label.replace('_', ' ')}"
    return spoken if (source / spoken).is_dir() else f"{parent}/{label}"
