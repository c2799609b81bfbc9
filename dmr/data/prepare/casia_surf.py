"""CASIA-SURF: is a face live or a spoof, seen in colour, depth and infrared.

Source: Zhang et al., "A Dataset and Benchmark for Large-scale Multi-modal Face Anti-spoofing", CVPR 2019; transforms
as in DMRNet's released code. On disk: images wherever the lists say, below the source;
    train_list.txt, val_private_list.txt, test_private_list.txt: `color_path depth_path ir_path label`, 1 = live
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dmr.data.dataset import DataError, Modality
from dmr.data.prepare.files import Files, channels_first
from dmr.data.prepare.release import Arrays, Release, Sample, Stored, check_folder, read_lines, split_line

CLASSES = ("spoof", "live")
LISTS = {"train": "train_list.txt", "val": "val_private_list.txt", "test": "test_private_list.txt"}
SIDE = 112
MODES = {"rgb": "RGB", "depth": "L", "ir": "L"}
SCALE = {"mean": 127.5, "std": 128.0}


def casia_surf(source: Path) -> Release:
    """The release below `source`.

    Raises:
        DataError: the folder or a list is missing, or a list's line cannot be used.
    """
    check_folder(source)
    about = {"stored": f"{SIDE}×{SIDE}, bilinear", **SCALE}
    return Release(
        name="casia_surf",
        source=source,
        task="classification",
        class_names=CLASSES,
        stored=tuple(
            Stored(Modality(name, "image", (len(mode), SIDE, SIDE)), "uint8", about) for name, mode in MODES.items()
        ),
        label_shape=(),
        splits={split: _samples(source / name) for split, name in LISTS.items()},
        read=read_face,
        hashed=tuple(LISTS.values()),
        about={
            "source": "CASIA-SURF, Zhang et al. 2019",
            "licence": "for research, by agreement with its authors",
            "split": ", ".join(f"{split}: {name}" for split, name in LISTS.items()),
        },
    )


def read_face(sample: Sample, files: Files) -> Arrays:
    """`rgb` (3, 112, 112), `depth` and `ir` (1, 112, 112) and `label`.

    Raises:
        BadFile: an image cannot be used.
    """
    from PIL.Image import Resampling

    arrays = {}
    for (name, mode), file in zip(MODES.items(), sample.files, strict=True):
        image = files.image(file).convert(mode).resize((SIDE, SIDE), Resampling.BILINEAR)
        arrays[name] = channels_first(image)
    return {**arrays, "label": np.asarray(sample.label, dtype=np.int64)}


def _samples(file: Path) -> tuple[Sample, ...]:
    samples = []
    for where, line in read_lines(file):
        *paths, label = split_line(where, line, ("color_path", "depth_path", "ir_path", "label"), None)
        if label not in ("0", "1"):
            raise DataError(f"{where}: label {label!r}; allowed are 0 (spoof) and 1 (live)")
        samples.append(Sample(paths[0], where, tuple(paths), int(label)))
    return tuple(samples)
