"""CREMA-D: 6 emotions, heard and seen.

Source: Cao et al., "CREMA-D: Crowd-sourced Emotional Multimodal Actors Dataset", IEEE Transactions on Affective
Computing 2014; lists and transforms as in DMRNet's released code. On disk:
    AudioWAV/<clip>.wav
    Image-01-FPS/<clip>/<00000>.jpg, or VideoFlash/<clip>.flv
    train.csv, test.csv: `clip,LABEL`, no header
<clip> is <actor>_<sentence>_<emotion>_<level>.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from dmr.data.dataset import DataError
from dmr.data.prepare.files import BadFile, Files, decode_image, square
from dmr.data.prepare.release import (
    SPLIT_SEED,
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

CLASSES = ("NEU", "HAP", "SAD", "FEA", "DIS", "ANG")
RATE, SECONDS, N_FFT, HOP = 22_050, 3, 512, 353
SIDE = 256
HELD_OUT = 0.1  # of the actors, for val and, where the split is by actor, for test
FRAMES, VIDEOS = "Image-01-FPS", "VideoFlash"
HOW = {
    "published": "train.csv and test.csv as published; val is the part of train.csv by a tenth of the actors, "
    "who are not in train (all actors are in both published lists)",
    "actor": "both published lists together, divided by actor: about 80 % train, 10 % val, 10 % test, no actor in two",
}


def crema_d(source: Path, split: str) -> Release:
    """The release below `source`; `split` is `published` or `actor`.

    Raises:
        DataError: a folder or list is missing, or a list's line cannot be used.
    """
    check_folder(source)
    check_folder(source / "AudioWAV")
    pictures = _pictures(source)
    lists = {name: _samples(source, f"{name}.csv", pictures) for name in ("train", "test")}
    splits = _by_actor(lists["train"] + lists["test"], ("train", "val", "test"))
    if split == "published":
        splits = _by_actor(lists["train"], ("train", "val")) | {"test": tuple(lists["test"])}
    return Release(
        name="crema_d",
        source=source,
        task="classification",
        class_names=CLASSES,
        stored=(
            stored_audio(
                "log-spectrogram, standardised by clip; shorter clips are repeated", RATE, SECONDS, N_FFT, HOP
            ),
            stored_frame(SIDE),
        ),
        label_shape=(),
        splits=splits,
        read=read_clip,
        hashed=("train.csv", "test.csv"),
        about={
            "source": "CREMA-D, Cao et al. 2014, github.com/CheyneyComputerScience/CREMA-D",
            "licence": "Open Database License (ODbL) 1.0",
            "split": HOW[split],
        },
    )


def read_clip(sample: Sample, files: Files) -> Arrays:
    """`audio` (1, 257, 188), `video` (3, 256, 256) and `label`.

    Raises:
        BadFile: the audio or the frame cannot be used.
    """
    audio_file, pictures = sample.files
    samples = repeated(resampled(files.audio(audio_file), RATE), RATE * SECONDS)[: RATE * SECONDS]
    audio = log_spectrogram(samples, N_FFT, HOP)
    audio = (audio - audio.mean()) / (audio.std() + 1e-9)
    if pictures.endswith(".flv"):
        image = decode_image(pictures, _frame_of_video(files, pictures))
    else:
        image = files.image(files.middle_frame(pictures))
    return {
        "audio": audio[None].astype(np.float16),
        "video": square(image, SIDE),
        "label": np.asarray(sample.label, dtype=np.int64),
    }


def _pictures(source: Path) -> str:
    """Where the pictures of a clip lie, with its name to be filled in.

    Raises:
        DataError: neither frames nor videos, or videos without ffmpeg to cut them.
    """
    if (source / FRAMES).is_dir():
        check_folder(source / FRAMES)
        return FRAMES + "/{}"
    if not (source / VIDEOS).is_dir():
        raise DataError(f"{source}: neither {FRAMES} (a folder of frames per clip) nor {VIDEOS} (videos) is there")
    if shutil.which("ffmpeg") is None:
        raise DataError(f"{source / VIDEOS}: ffmpeg is needed to cut frames from videos; install it, or add {FRAMES}")
    return VIDEOS + "/{}.flv"


def _samples(source: Path, name: str, pictures: str) -> list[Sample]:
    samples = []
    for where, line in read_lines(source / name):
        clip, label = split_line(where, line, ("clip", "LABEL"), ",")
        if label not in CLASSES:
            raise DataError(f"{where}: label {label!r}; allowed are {', '.join(CLASSES)}")
        if not clip.split("_")[0].isdigit():
            raise DataError(f"{where}: clip {clip!r}; a name is <actor number>_<sentence>_<emotion>_<level>")
        files = (f"AudioWAV/{clip}.wav", pictures.format(clip))
        samples.append(Sample(clip, where, files, CLASSES.index(label)))
    return samples


def _by_actor(samples: list[Sample], parts: tuple[str, ...]) -> dict[str, tuple[Sample, ...]]:
    """Samples divided so that no actor is in two parts; each part but the first gets a tenth of the actors."""
    actors = sorted({_actor(sample) for sample in samples})
    if len(actors) < len(parts):
        where = samples[0].listed.rpartition(",")[0]
        raise DataError(f"{where}: {len(actors)} actors are too few to divide into {', '.join(parts)}")
    actors = [actors[n] for n in np.random.default_rng(SPLIT_SEED).permutation(len(actors))]
    held_out = max(1, round(HELD_OUT * len(actors)))
    part_of = {actor: parts[min(1 + n // held_out, len(parts)) % len(parts)] for n, actor in enumerate(actors)}
    return {part: tuple(s for s in samples if part_of[_actor(s)] == part) for part in parts}


def _actor(sample: Sample) -> str:
    return sample.name.split("_")[0]


def _frame_of_video(files: Files, name: str) -> bytes:
    """The middle one of the frames that ffmpeg cuts, one per second.

    Raises:
        BadFile: ffmpeg cannot read the video.
    """
    files.read(name)
    with tempfile.TemporaryDirectory() as folder:
        command = ["ffmpeg", "-nostdin", "-v", "error", "-i", str(files.root / name), "-r", "1", "-q:v", "2"]
        ran = subprocess.run([*command, f"{folder}/%05d.jpg"], capture_output=True, encoding="utf-8", errors="replace")
        frames = sorted(Path(folder).iterdir())
        if ran.returncode != 0 or not frames:
            reason = (ran.stderr.strip().splitlines() or ["no frames"])[-1]
            raise BadFile(name, f"ffmpeg cannot cut it: {reason}")
        return frames[len(frames) // 2].read_bytes()
