"""What the benchmarks share: images made up in memory, two things timed in turn, and tables in markdown.

Letters: M modalities, N samples.
"""

from __future__ import annotations

import ctypes
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from dmr.data.dataset import Modality, MultimodalDataset, Split
from dmr.encoders.cnn import CNNSettings
from dmr.methods import METHODS
from dmr.settings import SamplingSettings, TrainSettings
from dmr.training import RunSettings

SIDE = 32
CLASSES = 10
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of malloc.h


def images(modalities: int, train: int, val: int) -> MultimodalDataset:
    """Noise with a mean that tells the class: M images of 32×32, the m-th with 1 + m mod 3 channels."""
    draw = np.random.default_rng(0)
    described = tuple(Modality(f"camera{m}", "image", (1 + m % 3, SIDE, SIDE)) for m in range(modalities))
    splits = {}
    for name, count in {"train": train, "val": val}.items():
        labels = draw.integers(0, CLASSES, count)
        brightness = labels.reshape(-1, 1, 1, 1) / CLASSES
        noise = {m.name: draw.standard_normal((count, *m.shape)) for m in described}
        splits[name] = Split({key: (x + brightness).astype(np.float32) for key, x in noise.items()}, labels)
    return MultimodalDataset("images", "classification", tuple(map(str, range(CLASSES))), described, splits)


def image_settings(dataset: MultimodalDataset, method: str) -> RunSettings:
    """The defaults of the study file: `cnn` encoders of width 64, batches of 64, uniform sampling."""
    return RunSettings(
        method=METHODS[method].Settings(),
        encoders={name: CNNSettings() for name in dataset.modality_names},
        sampling=SamplingSettings(),
        train=TrainSettings(batch_size=64),
        fusion="concat",
        select="val/accuracy_mean",
        select_mode="max",
        deployment=None,
        seed=0,
    )


def interleaved(
    one: Callable[[int], object], other: Callable[[int], object], repetitions: int, warm_up: int
) -> tuple[list[float], list[float]]:
    """Seconds of each call of both, in turn; which one goes first alternates. Each is given its repetition's number."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for repetition in range(-warm_up, repetitions):
        order = (0, 1) if repetition % 2 == 0 else (1, 0)
        for which in order:
            started = time.perf_counter()
            (one, other)[which](repetition)
            taken = time.perf_counter() - started
            if repetition >= 0:
                seconds[which].append(taken)
    return seconds


def ratio(fast: Sequence[float], slow: Sequence[float]) -> str:
    """How many times less `fast` takes, by medians, and the middle half of the ratios of neighbours in time."""
    pairs = sorted(s / f for f, s in zip(fast, slow, strict=True))
    low, _, high = statistics.quantiles(pairs, n=4)
    return f"{statistics.median(slow) / statistics.median(fast):.2f} ({low:.2f}–{high:.2f})"


def milliseconds(seconds: Sequence[float]) -> str:
    return f"{1000 * statistics.median(seconds):.1f}"


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A markdown table, first column to the left, the others to the right."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def environment(threads: int, *packages: str) -> str:
    """A line that says where figures come from."""
    versions = ", ".join(f"{package} {version(package)}" for package in ("torch", *packages))
    load = "/".join(f"{value:.1f}" for value in os.getloadavg())
    return (
        f"{date.today()}, {_processor()} ({os.cpu_count()} CPUs visible, load {load} at the start), "
        f"{threads} torch thread(s), Python {platform.python_version()}, {versions}"
    )


def _processor() -> str:
    """The name of the CPU; Linux tells it in /proc only."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def steady(keep_memory: bool = True) -> None:
    """One torch thread, and a C library that keeps freed memory: what is compared is work, not how well it spreads over
    cores, and not the page faults of activations that glibc hands back to the kernel at every step.
    """
    torch.set_num_threads(1)
    if keep_memory and platform.libc_ver()[0] == "glibc":
        library = ctypes.CDLL(None)
        library.mallopt(M_MMAP_THRESHOLD, 2**30)
        library.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
