"""UTD-MHAD: 27 actions of 8 people, by a sensor on the wrist or the thigh and by a depth camera that finds 20 joints.

Source: Chen, Jafari, Kehtarnavaz, "UTD-MHAD: A Multimodal Dataset for Human Action Recognition Utilizing a Depth Camera
and a Wearable Inertial Sensor", ICIP 2015. On disk, MATLAB 5 files:
    Inertial/a<action>_s<subject>_t<trial>_inertial.mat: d_iner (T, 6), acceleration in g and rotation in degrees/s
    Skeleton/a<action>_s<subject>_t<trial>_skeleton.mat: d_skel (20, 3, T), joints in metres
    Depth/a<action>_s<subject>_t<trial>_depth.mat: d_depth (240, 320, T) in millimetres

Letters: C channels, T time steps of a sample, N of what is stored.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dmr.data.dataset import DataError, Modality
from dmr.data.prepare.files import BadFile, Files
from dmr.data.prepare.release import Arrays, Release, Sample, Stored, check_folder

CLASSES = (
    *("swipe left", "swipe right", "wave", "clap", "throw", "cross arms", "basketball shoot", "draw x"),
    *("draw circle clockwise", "draw circle counter clockwise", "draw triangle", "bowling", "boxing"),
    *("baseball swing", "tennis swing", "arm curl", "tennis serve", "push", "knock", "catch"),
    *("pick up and throw", "jog", "walk", "sit to stand", "stand to sit", "lunge", "squat"),
)
ACTIONS, SUBJECTS = range(1, len(CLASSES) + 1), range(1, 9)
VAL_SUBJECT = 7
INERTIAL_STEPS, SKELETON_STEPS, FRAMES = 128, 64, 16
JOINTS, HIP_CENTRE = 20, 3
HEIGHT, WIDTH, BLOCK = 240, 320, 4
NAME = re.compile(r"a(\d+)_s(\d+)_t(\d+)_(?:inertial|skeleton|depth)\.mat")


def utd_mhad(source: Path, depth: bool) -> Release:
    """The release below `source`, with the depth videos or without.

    Raises:
        DataError: a folder is missing, a file's name has an unknown action or subject, or a subject has no files.
    """
    kinds = ("Inertial", "Skeleton", *(["Depth"] if depth else []))
    found = {key for kind in kinds for key in _listed(source / kind)}
    for subject in SUBJECTS:
        if not any(s == subject for _, s, _ in found):
            raise DataError(f"{source}: no files of subject {subject}; the release has those of 1 to {SUBJECTS[-1]}")
    samples = [(subject, _sample(action, subject, trial, kinds)) for action, subject, trial in sorted(found)]
    stored = [
        _sequence("accelerometer", 3, INERTIAL_STEPS, unit="g"),
        _sequence("gyroscope", 3, INERTIAL_STEPS, unit="°/s"),
        _sequence(
            "skeleton",
            3 * JOINTS,
            SKELETON_STEPS,
            unit="metres",
            channels="x, y, z of one joint after the other",
            origin="the hip centre of the first frame",
        ),
    ]
    if depth:
        about = {"stored": f"{FRAMES} frames at equal steps, means of {BLOCK}×{BLOCK} pixels", "unit": "millimetres"}
        shape = (FRAMES, 1, HEIGHT // BLOCK, WIDTH // BLOCK)
        stored.append(Stored(Modality("depth", "frames", shape), "float16", about))
    return Release(
        name="utd_mhad",
        source=source,
        task="classification",
        class_names=CLASSES,
        stored=tuple(stored),
        label_shape=(),
        splits={
            split: tuple(sample for subject, sample in samples if _split(subject) == split)
            for split in ("train", "val", "test")
        },
        read=read_action,
        hashed=(),
        about={
            "source": "UTD-MHAD, Chen, Jafari and Kehtarnavaz 2015, personal.utdallas.edu/~kehtar/UTD-MHAD.html",
            "split": f"test: subjects 2, 4, 6, 8, as published; val: subject {VAL_SUBJECT}; train: subjects 1, 3, 5",
        },
    )


def _sequence(name: str, count: int, steps: int, **about: str) -> Stored:
    how = {"stored": f"{steps} steps, linear between those of the release"}
    return Stored(Modality(name, "sequence", (count, steps)), "float32", how | about)


def read_action(sample: Sample, files: Files) -> Arrays:
    """`accelerometer` and `gyroscope` (3, 128), `skeleton` (60, 64), `depth` (16, 1, 60, 80) if it is wanted, `label`.

    Raises:
        BadFile: a file is damaged, or its array has another shape or values that are not finite.
    """
    inertial_file, skeleton_file, *depth_files = sample.files
    inertial = _array(files, inertial_file, "d_iner", (None, 6)).T
    joints = _array(files, skeleton_file, "d_skel", (JOINTS, 3, None))
    joints = joints - joints[HIP_CENTRE, :, :1]
    motion = resampled_linearly(inertial, INERTIAL_STEPS)
    arrays: dict[str, npt.NDArray[Any]] = {
        "accelerometer": motion[:3],
        "gyroscope": motion[3:],
        "skeleton": resampled_linearly(joints.reshape(3 * JOINTS, -1), SKELETON_STEPS),
        "label": np.asarray(sample.label, dtype=np.int64),
    }
    for file in depth_files:
        arrays["depth"] = _frames(_array(files, file, "d_depth", (HEIGHT, WIDTH, None)))
    return arrays


def resampled_linearly(values: npt.NDArray[np.float64], steps: int) -> npt.NDArray[np.float32]:
    """(C, T) → (C, steps): from the first to the last step, linear between those of `values`."""
    length = values.shape[1]
    times = np.linspace(0, length - 1, steps)
    return np.array([np.interp(times, np.arange(length), channel) for channel in values], dtype=np.float32)


def _frames(video: npt.NDArray[np.float64]) -> npt.NDArray[np.float16]:
    """(240, 320, T) → (16, 1, 60, 80)."""
    chosen = np.linspace(0, video.shape[2] - 1, FRAMES).round().astype(int)
    frames = np.moveaxis(video[:, :, chosen], 2, 0)
    blocks = frames.reshape(FRAMES, 1, HEIGHT // BLOCK, BLOCK, WIDTH // BLOCK, BLOCK)
    return np.asarray(blocks.mean(axis=(3, 5)), dtype=np.float16)


def _array(files: Files, file: str, variable: str, shape: tuple[int | None, ...]) -> npt.NDArray[np.float64]:
    """A variable in float64; None in `shape` is any length but zero."""
    found = files.matlab(file, variable)
    fits = found.ndim == len(shape) and all(n == s if s else n for n, s in zip(found.shape, shape, strict=True))
    if not fits or found.dtype.kind not in "fiu":
        needed = "×".join(str(s or "T") for s in shape)
        got = "×".join(map(str, found.shape))
        raise BadFile(file, f"{variable}: numbers in {needed} are needed, got {found.dtype} in {got}")
    if not np.isfinite(found).all():
        raise BadFile(file, f"{variable}: NaN or infinity in it")
    return found.astype(np.float64)


def _listed(folder: Path) -> set[tuple[int, int, int]]:
    """Action, subject and trial of the samples in a folder; files of other names are none.

    Raises:
        DataError: no such folder, or an action or subject that the release does not have.
    """
    found = set()
    for path in check_folder(folder).iterdir():
        match = NAME.fullmatch(path.name)
        if match is None:
            continue
        action, subject, trial = map(int, match.groups())
        if action not in ACTIONS or subject not in SUBJECTS:
            raise DataError(f"{path}: actions are 1 to {ACTIONS[-1]}, subjects 1 to {SUBJECTS[-1]}")
        found.add((action, subject, trial))
    return found


def _sample(action: int, subject: int, trial: int, kinds: tuple[str, ...]) -> Sample:
    name = f"a{action}_s{subject}_t{trial}"
    files = tuple(f"{kind}/{name}_{kind.lower()}.mat" for kind in kinds)
    return Sample(name, f"{CLASSES[action - 1]}, subject {subject}, trial {trial}", files, action - 1)


def _split(subject: int) -> str:
    if subject == VAL_SUBJECT:
        return "val"
    return "train" if subject % 2 else "test"
