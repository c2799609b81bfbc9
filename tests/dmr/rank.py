"""One of several processes that train together: `rank.py RANK COUNT FOLDER`; what comes out is FOLDER/RANK.pt.

The cases are small runs of every method, each with a combination of what makes ranks unequal.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from dmr.data import open_dataset
from dmr.data.augmentation import AugmentSettings
from dmr.data.dataset import Modality, MultimodalDataset, Split
from dmr.encoders import default_encoder, find_encoder
from dmr.methods import METHODS
from dmr.methods.dmrnet import DMRNetSettings
from dmr.methods.full_only import FullOnlySettings
from dmr.metrics import MAIN_METRICS
from dmr.settings import SamplingSettings, TrainSettings
from dmr.training import Diverged, EpochReport, RunSettings, fit

EARLY = {"warmup_epochs": 1, "teacher_epochs": 1}


class Kept:
    """A reporter that keeps the last state and every report."""

    def __init__(self) -> None:
        self.state: dict[str, Any] | None = None
        self.reports: list[dict[str, Any]] = []

    def load(self) -> dict[str, Any] | None:
        return None

    def save(self, state: dict[str, Any], is_best: bool) -> None:
        self.state = state

    def report(self, report: EpochReport) -> None:
        self.reports.append(asdict(report))


def vectors(train: int, present: str | None = None) -> MultimodalDataset:
    """Three modalities; `rare`: the third is there in two samples only, and two samples in three are incomplete."""
    draw = np.random.default_rng(3)
    names, splits = ("a", "b", "c"), {}
    for split, count in (("train", train), ("val", 11)):
        inputs = {name: draw.standard_normal((count, 5)).astype(np.float32) for name in names}
        labels = np.arange(count, dtype=np.int64) % 3
        for name in names:
            inputs[name] += labels[:, None]
        has = None
        if present is not None:
            has = np.ones((count, 3), dtype=bool)
            has[2:, 2] = False
            has[::3, 1] = False
        splits[split] = Split(inputs, labels, present=has)
    kinds = tuple(Modality(name, "vector", (5,)) for name in names)
    return MultimodalDataset("vectors", "classification", ("0", "1", "2"), kinds, splits)


def images() -> MultimodalDataset:
    draw = np.random.default_rng(4)
    splits = {}
    for split, count in (("train", 24), ("val", 5)):
        labels = np.arange(count, dtype=np.int64) % 2
        inputs = {n: (draw.standard_normal((count, 3, 32, 32)) + labels[:, None, None, None]) for n in "ab"}
        splits[split] = Split({n: x.astype(np.float32) for n, x in inputs.items()}, labels)
    kinds = tuple(Modality(name, "image", (3, 32, 32)) for name in "ab")
    return MultimodalDataset("images", "classification", ("0", "1"), kinds, splits)


def settings(
    dataset: MultimodalDataset,
    method: Any,
    encoder: str | None = None,
    augment: dict[str, Any] | None = None,
    combinations: int = 1,
    **train: Any,
) -> RunSettings:
    own = {"width": 8} if dataset.task == "classification" else {"width": 4}
    chosen = {m.name: replace(default_encoder(m, dataset.task), **own) for m in dataset.modalities}
    if encoder is not None:
        chosen = {m.name: find_encoder(encoder)() for m in dataset.modalities}
    return RunSettings(
        method=method,
        encoders=chosen,
        sampling=SamplingSettings(combinations_per_sample=combinations),
        train=TrainSettings(**{"epochs": 1, "batch_size": 6, "learning_rate": 1e-2, "optimizer": "sgd"} | train),
        fusion="concat",
        select=f"val/{MAIN_METRICS[dataset.task]}_mean",
        select_mode="max",
        deployment=None,
        seed=0,
        augment=AugmentSettings(**augment or {}),
    )


def method(name: str, **keys: Any) -> Any:
    made = METHODS[name].Settings
    early = {key: value for key, value in EARLY.items() if key in {field.name for field in fields(made)}}
    return made(**early, **keys)


Case = tuple[str, MultimodalDataset, Callable[[MultimodalDataset], RunSettings]]


def cases(count: int) -> Iterator[Case]:
    """Names, data, and what makes the settings: some for 2 ranks, others for 3."""
    return public_sets() if count == 2 else unequal_ranks()


def public_sets() -> Iterator[Case]:
    digits = open_dataset("digits", {}, 0)
    yield "digits", digits, lambda d: settings(d, method("dmrnet", head_norm="none"), batch_size=64, optimizer="adamw")
    scenes = open_dataset("scenes", {"size": 24, "train": 13, "val": 5, "test": 1, "seed": 0}, 0)
    yield "scenes", scenes, lambda d: settings(d, method("dmrnet", head_norm="none"))
    augment = {"flip": True, "crop": [16, 16], "scale": [0.8, 1.2], "rotate_degrees": 20.0}
    yield "scenes augmented", scenes, lambda d: settings(d, method("simmlm"), augment=augment)
    for name in METHODS:
        yield f"{name} on scenes", scenes, lambda d, name=name: settings(d, method(name))
    yield (
        "batch norm in encoders",
        images(),
        lambda d: settings(d, FullOnlySettings(), "resnet18_se", learning_rate=1e-3, batch_size=12),
    )


def unequal_ranks() -> Iterator[Case]:
    """20 samples are batches of 6, 6, 6 and 2, so that a rank has no sample of the last."""
    for name in METHODS:
        yield name, vectors(20), lambda d, name=name: settings(d, method(name), epochs=3, combinations=2, clip_norm=0.5)
        yield f"{name} rare", vectors(20, "rare"), lambda d, name=name: settings(d, method(name), epochs=3)
    for mode in ("released", "constant"):
        own = method("dmrnet", hard_mode=mode, hard_weight=0.1)
        yield f"dmrnet {mode}", vectors(20), lambda d, own=own: settings(d, own, epochs=3, class_weights="inverse")
    yield "nothing is finite", vectors(20), lambda d: settings(d, DMRNetSettings(), learning_rate=1e30, epochs=3)


def outcomes(count: int) -> dict[str, Any]:
    """By case: what was raised, the reports and the last state's network and statistics."""
    found = {}
    for name, dataset, make in cases(count):
        kept, raised = Kept(), ""
        print(name, flush=True)  # noqa: T201  # shows which one hangs
        try:
            fit(dataset, make(dataset), torch.device("cpu"), kept)
        except Diverged as error:
            raised = f"{type(error).__name__}: {error}"
        found[name] = {"raised": raised, "reports": kept.reports, "state": kept.state}
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    rank, count, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    dist.init_process_group("gloo", init_method=f"file://{folder / 'meet'}", rank=rank, world_size=count)
    torch.save(outcomes(count), folder / f"{rank}.pt")
    dist.destroy_process_group()
