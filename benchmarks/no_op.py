"""The study file of trials that train next to nothing, for both studies of `overhead.py --no-op`."""

from __future__ import annotations

from pathlib import Path

import numpy as np


def write_no_op(folder: Path) -> Path:
    """32 samples of two vectors of 4 numbers, in 2 classes; the default method, space and sampler."""
    draw = np.random.default_rng(0)
    data = folder / "data"
    for split in ("train", "val"):
        (data / split).mkdir(parents=True)
        np.save(data / split / "label.npy", np.arange(32) % 2)
        for name in ("a", "b"):
            np.save(data / split / f"{name}.npy", draw.standard_normal((32, 4)).astype(np.float32))
    modalities = "[{name: a, kind: vector, shape: [4]}, {name: b, kind: vector, shape: [4]}]"
    text = f"task: classification\nnum_classes: 2\nmodalities: {modalities}\n"
    (data / "dataset.yaml").write_text(text, encoding="utf-8")
    file = folder / "no_op.yaml"
    file.write_text(f"dataset: {{name: arrays, path: {data}}}\nscheduler: {{name: none}}\n", encoding="utf-8")
    return file
