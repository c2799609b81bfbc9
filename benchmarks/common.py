"""What the benchmarks share: data made up in memory, two things timed in turn, and tables in markdown.

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
from typing import Any

import numpy as np
import torch

from dmr.data.dataset import Kind, Modality, MultimodalDataset, Split
from dmr.encoders import EncoderSettings, default_encoder
from dmr.encoders.cnn import CNNSettings
from dmr.methods import METHODS, MethodSettings
from dmr.metrics import MAIN_METRICS
from dmr.settings import SamplingSettings, TrainSettings
from dmr.training import RunSettings

SIDE = 32
CLASSES = 10
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of malloc.h


def images(modalities: int, train: int, val: int, side: int = SIDE) -> MultimodalDataset:
    """M images of 32×32 (or `side`), the m-th with 1 + m mod 3 channels."""
    return noise("image", [(1 + m % 3, side, side) for m in range(modalities)], train, val)


def noise(kind: Kind, shapes: Sequence[tuple[int, ...]], train: int, val: int) -> MultimodalDataset:
    """Noise with a mean that tells the class: a modality of this kind for each of the shapes."""
    draw = np.random.default_rng(0)
    described = tuple(Modality(f"{kind}{m}", kind, shape) for m, shape in enumerate(shapes))
    splits = {}
    for name, count in {"train": train, "val": val}.items():
        labels = draw.integers(0, CLASSES, count)
        inputs = {}
        for modality in described:
            brightness = labels.reshape(-1, *[1] * len(modality.shape)) / CLASSES
            inputs[modality.name] = (draw.standard_normal((count, *modality.shape)) + brightness).astype(np.float32)
        splits[name] = Split(inputs, labels)
    return MultimodalDataset("noise", "classification", tuple(map(str, range(CLASSES))), described, splits)


def image_settings(dataset: MultimodalDataset, method: str) -> RunSettings:
    """As `run_settings`, with `cnn` encoders of width 64 and batches of 64."""
    return run_settings(dataset, METHODS[method].Settings(), CNNSettings(), batch_size=64)


def run_settings(
    dataset: MultimodalDataset, method: MethodSettings, encoder: EncoderSettings | None = None, **train: Any
) -> RunSettings:
    """The defaults of the study file but for one combination per sample, drawn uniformly, and keys of `train`; without
    `encoder` the default ones of the modalities.
    """
    return RunSettings(
        method=method,
        encoders={m.name: encoder or default_encoder(m, dataset.task) for m in dataset.modalities},
        sampling=SamplingSettings(combinations_per_sample=1),
        train=TrainSettings(**train),
        fusion="concat",
        select=f"val/{MAIN_METRICS[dataset.task]}_mean",
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


def wait(device: torch.device) -> None:
    """Until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


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
