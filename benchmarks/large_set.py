"""Memory of a set larger than what trials may hold: 4 GB in the `arrays` layout, and 1 GB from a function in memory.

Studies through the command line, in a temporary folder (which is removed). `RssAnon` of /proc/PID/status, the memory
that is a process's own and no cache of a file, is read five times a second of every trial process and of the driver;
what is shown is the peak. The same study on 64 of the samples says what a process has anyway: Python, torch, Ray, the
model and its batches.

    .venv/bin/python benchmarks/large_set.py
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil
import torch
import yaml
from common import environment, table

SHAPES = {"rgb": ((3, 224, 224), np.uint8), "depth": ((1, 224, 224), np.float16)}
SAMPLE_BYTES = sum(int(np.prod(shape)) * np.dtype(dtype).itemsize for shape, dtype in SHAPES.values())
BLOCK = 256
FEW = 64
LIMIT = 1.0  # GB beyond the small study
FUNCTION = """
from dataclasses import replace
from pathlib import Path

import numpy as np

from dmr.data.arrays import arrays


def in_memory(path):
    data = arrays(Path(path), 0)
    splits = {name: replace(split, inputs={key: np.array(array) for key, array in split.inputs.items()})
              for name, split in data.splits.items()}
    return replace(data, splits=splits)
"""


class Peaks(NamedTuple):
    """Peaks of RssAnon in bytes, and seconds from command to exit."""

    trials: list[int]
    driver: int
    seconds: float


def write_set(folder: Path, gigabytes: float) -> int:
    """Noise whose brightness tells the class; returns the number of samples."""
    counts = {"train": int(0.9 * gigabytes * 1e9 / SAMPLE_BYTES), "val": int(0.1 * gigabytes * 1e9 / SAMPLE_BYTES)}
    draw = np.random.default_rng(0)
    for split, count in counts.items():
        (folder / split).mkdir(parents=True)
        labels = np.arange(count) % 4
        np.save(folder / split / "label.npy", labels)
        for name, (shape, dtype) in SHAPES.items():
            noise = draw.integers(0, 128, (BLOCK, *shape), np.uint8)
            file = np.lib.format.open_memmap(folder / split / f"{name}.npy", "w+", dtype, (count, *shape))
            for start in range(0, count, BLOCK):
                own = labels[start : start + BLOCK].reshape(-1, 1, 1, 1).astype(np.uint8)
                file[start : start + BLOCK] = noise[: len(own)] + 30 * own
            file.flush()
    kinds = [{"name": name, "kind": "image", "shape": list(shape)} for name, (shape, _) in SHAPES.items()]
    (folder / "dataset.yaml").write_text(
        yaml.safe_dump({"name": folder.name, "num_classes": 4, "modalities": kinds}), encoding="utf-8"
    )
    return sum(counts.values())


def run_study(place: Path, name: str, dataset: dict[str, str], concurrent: int) -> Peaks:
    """One epoch a trial, as many trials as run at a time.

    Raises:
        RuntimeError: the study failed.
    """
    document = {
        "name": name,
        "dataset": dataset,
        "model": {"method": "dropout", "encoder": {"name": "cnn", "width": 8}},
        "augment": {"crop": [48, 48], "flip": True},
        "train": {"epochs": 1, "batch_size": 64},
        "search": {"train.learning_rate": {"log_uniform": [1e-4, 1e-2]}},
        "scheduler": {"name": "none"},
        "budget": {"trials": concurrent},
        "resources": {"cpus": os.cpu_count() / concurrent, "concurrent": concurrent},
    }
    (place / f"{name}.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
    command = [str(Path(sys.executable).with_name("dmr")), "run", f"{name}.yaml"]
    started = time.perf_counter()
    with open(place / f"{name}.log", "w", encoding="utf-8") as log:
        process = psutil.Popen(command, cwd=place, stdout=log, stderr=subprocess.STDOUT)
        driver, trials = 0, {}
        while process.poll() is None:
            with suppress(psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError):
                driver = max(driver, anonymous_bytes(process.pid))
                for child in process.children(recursive=True):
                    with suppress(psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError):
                        if "ImplicitFunc" in " ".join(child.cmdline()):
                            trials[child.pid] = max(trials.get(child.pid, 0), anonymous_bytes(child.pid))
            time.sleep(0.2)
    if process.returncode:
        raise RuntimeError((place / f"{name}.log").read_text(encoding="utf-8"))
    return Peaks(sorted(trials.values(), reverse=True)[:concurrent], driver, time.perf_counter() - started)


def anonymous_bytes(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon")), 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gigabytes", type=float, default=4.0)
    parser.add_argument("--in-memory", type=float, default=1.0, help="gigabytes of the set that a function returns")
    parser.add_argument("--folder", type=Path, help="where the temporary folder is made")
    given = parser.parse_args()
    print(environment(torch.get_num_threads(), "ray"), flush=True)
    print("Peak RssAnon in MB; `beyond` is that of the largest trial process less that of the small study.\n")
    place = Path(tempfile.mkdtemp(prefix="dmr_large_set_", dir=given.folder))
    rows = []
    try:
        (place / "made.py").write_text(FUNCTION, encoding="utf-8")
        os.environ |= {
            "MLFLOW_TRACKING_URI": f"sqlite:///{place / 'mlflow.db'}",
            "XDG_CACHE_HOME": str(place / "cache"),
        }
        few = FEW * SAMPLE_BYTES / 0.9 / 1e9
        sets = {"few": few, "disk": given.gigabytes, "memory": given.in_memory}
        for name, gigabytes in sets.items():
            write_set(place / name, gigabytes)
        small = None
        for name, gigabytes in sets.items():
            own = {"name": "made:in_memory", "path": str(place / name)}
            dataset = own if name == "memory" else {"name": "arrays", "path": str(place / name)}
            for concurrent in (1,) if name == "few" else (1, 4):
                peaks = run_study(place, f"{name}-{concurrent}", dataset, concurrent)
                small = max(peaks.trials) if small is None else small
                beyond = (max(peaks.trials) - small) / 1e6
                trials = ", ".join(f"{peak / 1e6:.0f}" for peak in peaks.trials)
                target = "" if name == "few" else f"< {1000 * LIMIT:.0f}"
                described = (name, f"{gigabytes:.2f}", concurrent, trials, f"{beyond:.0f}", target)
                rows.append((*described, f"{peaks.driver / 1e6:.0f}", f"{peaks.seconds:.0f}"))
                print(rows[-1], file=sys.stderr, flush=True)
    finally:
        shutil.rmtree(place)
    head = ("set", "GB", "trials at a time", "trial processes", "beyond", "target", "driver", "seconds")
    print(table(head, rows))


if __name__ == "__main__":
    main()
