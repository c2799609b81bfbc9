"""What the tests of `dmr` share: small data, settings, a reporter that keeps everything."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from dmr.data.dataset import Kind, Modality, MultimodalDataset, Split
from dmr.encoders import EncoderSettings, default_encoder
from dmr.fusion import FusionKind
from dmr.methods import Method, MethodSettings
from dmr.methods.dmrnet import DMRNetSettings
from dmr.metrics import MAIN_METRICS
from dmr.settings import SamplingSettings, TrainSettings
from dmr.training import EpochReport, RunSettings

NAMES = ("a", "b", "c", "d", "e", "f", "g", "h", "i")


@pytest.fixture(autouse=True)
def global_seed() -> Iterator[None]:
    """Layers built by a test itself are initialised alike whichever tests ran before it."""
    with torch.random.fork_rng([]):
        torch.manual_seed(20240714)
        yield


@pytest.fixture(scope="session")
def make_dataset() -> Callable[..., MultimodalDataset]:
    def make(
        modalities: int = 2,
        *,
        train: int = 18,
        val: int = 12,
        classes: int = 3,
        kind: Kind = "vector",
        shape: Sequence[int] = (5,),
        signal: float = 2.0,
        test: int = 0,
        seed: int = 0,
    ) -> MultimodalDataset:
        """Each class has a random centre in every modality, at a distance of about `signal` standard deviations."""
        draw = np.random.default_rng(seed)
        names = NAMES[:modalities]
        centres = {name: signal * draw.standard_normal((classes, *shape)) for name in names}
        splits = {}
        for split, count in _present({"train": train, "val": val, "test": test}):
            labels = np.arange(count, dtype=np.int64) % classes
            inputs = {
                name: (centres[name][labels] + draw.standard_normal((count, *shape))).astype(np.float32)
                for name in names
            }
            splits[split] = Split(inputs, labels)
        kinds = tuple(Modality(name, kind, tuple(shape)) for name in names)
        return MultimodalDataset("small", "classification", tuple(map(str, range(classes))), kinds, splits)

    return make


@pytest.fixture(scope="session")
def make_maps() -> Callable[..., MultimodalDataset]:
    def make(
        modalities: int = 2,
        *,
        train: int = 8,
        val: int = 6,
        test: int = 0,
        size: tuple[int, int] = (16, 16),
        classes: int = 3,
        signal: float = 2.0,
        ignore_index: int | None = 255,
        seed: int = 0,
    ) -> MultimodalDataset:
        """Label maps of 4×4 blocks, whose class has a random colour of its own in every modality, `signal` standard
        deviations wide; the first row of a map is ignored where there is an `ignore_index`.
        """
        draw = np.random.default_rng(seed)
        names = NAMES[:modalities]
        colours = {name: signal * draw.standard_normal((classes, 2)) for name in names}
        splits = {}
        for split, count in _present({"train": train, "val": val, "test": test}):
            labels = draw.integers(0, classes, (count, size[0] // 4, size[1] // 4)).repeat(4, axis=1).repeat(4, axis=2)
            inputs = {}
            for name in names:
                image = np.moveaxis(colours[name][labels], -1, 1)
                inputs[name] = (image + draw.standard_normal(image.shape)).astype(np.float32)
            if ignore_index is not None:
                labels[:, 0] = ignore_index
            splits[split] = Split(inputs, labels)
        kinds = tuple(Modality(name, "image", (2, *size)) for name in names)
        names_of_classes = tuple(map(str, range(classes)))
        return MultimodalDataset("maps", "segmentation", names_of_classes, kinds, splits, ignore_index=ignore_index)

    return make


def _present(counts: dict[str, int]) -> list[tuple[str, int]]:
    return [(split, count) for split, count in counts.items() if count]


@pytest.fixture(scope="session")
def make_settings() -> Callable[..., RunSettings]:
    def make(
        dataset: MultimodalDataset,
        method: MethodSettings | None = None,
        sampling: SamplingSettings | None = None,
        *,
        dropout: float = 0.0,
        encoder: EncoderSettings | None = None,
        fusion: FusionKind = "concat",
        select: tuple[str, str] | None = None,
        deployment: dict[str, float] | None = None,
        seed: int = 0,
        **train: Any,
    ) -> RunSettings:
        """`encoder` replaces the default ones, which are of width 8 (4 in segmentation, without dropout)."""
        own = {"width": 4} if dataset.task == "segmentation" else {"width": 8, "dropout": dropout}
        encoders = {m.name: encoder or replace(default_encoder(m, dataset.task), **own) for m in dataset.modalities}
        select = select or (f"val/{MAIN_METRICS[dataset.task]}_mean", "max")
        return RunSettings(
            method=method or DMRNetSettings(warmup_epochs=1),
            encoders=encoders,
            sampling=sampling or SamplingSettings(),
            train=TrainSettings(**{"epochs": 3, "batch_size": 6, "learning_rate": 1e-2, **train}),
            fusion=fusion,
            select=select[0],
            select_mode=select[1],
            deployment=deployment,
            seed=seed,
        )

    return make


EARLY = {"warmup_epochs": 1, "teacher_epochs": 1, "remine_every": 2, "experts": 3, "active": 3}


@pytest.fixture(scope="session")
def early() -> Callable[[type[Method]], MethodSettings]:
    def make(method: type[Method]) -> MethodSettings:
        """A method's settings, with every phase within four epochs, and every expert in use."""
        names = {field.name for field in fields(method.Settings)}
        return method.Settings(**{name: value for name, value in EARLY.items() if name in names})

    return make


class MemoryReporter:
    """Keeps every state as the bytes a checkpoint file would hold, every report, and the order of the calls."""

    def __init__(self, start: dict[str, Any] | None = None, stop_after: int | None = None) -> None:
        self.start = start
        self.stop_after = stop_after
        self.states: list[dict[str, Any]] = []
        self.is_best: list[bool] = []
        self.reports: list[EpochReport] = []
        self.calls: list[str] = []

    def load(self) -> dict[str, Any] | None:
        return copy.deepcopy(self.start)  # as from a file: an optimiser goes on with the tensors it is given

    def save(self, state: dict[str, Any], is_best: bool) -> None:
        file = io.BytesIO()
        torch.save(state, file)
        file.seek(0)
        self.states.append(torch.load(file, weights_only=True))
        self.is_best.append(is_best)
        self.calls.append(f"save {state['report']['epoch']}")

    def report(self, report: EpochReport) -> None:
        self.reports.append(report)
        self.calls.append(f"report {report.epoch}")
        if report.epoch == self.stop_after:
            raise StoppedHere(f"after epoch {report.epoch}")


class StoppedHere(Exception):
    """What a scheduler's decision looks like from inside `fit`."""


@pytest.fixture
def memory_reporter() -> type[MemoryReporter]:
    return MemoryReporter


@pytest.fixture
def stopped_here() -> type[Exception]:
    return StoppedHere


@pytest.fixture(scope="session")
def assert_identical() -> Callable[[Any, Any], None]:
    def check(left: Any, right: Any, where: str = "state") -> None:
        """Equal to the last bit, through mappings, sequences and tensors; NaN equals NaN."""
        if isinstance(left, torch.Tensor):
            assert left.dtype == right.dtype, where
            torch.testing.assert_close(left, right, rtol=0, atol=0, equal_nan=True, msg=lambda text: f"{where}: {text}")
        elif isinstance(left, dict):
            assert left.keys() == right.keys(), where
            for key in left:
                check(left[key], right[key], f"{where}.{key}")
        elif isinstance(left, list | tuple):
            assert len(left) == len(right), where
            for number, (one, other) in enumerate(zip(left, right, strict=True)):
                check(one, other, f"{where}[{number}]")
        else:
            assert left == right, where

    return check


@pytest.fixture
def write_arrays(tmp_path: Path) -> Callable[..., Path]:
    def write(dataset: MultimodalDataset, name: str = "data", **description: Any) -> Path:
        """`dataset` as a folder in the `arrays` layout; `description` replaces keys of dataset.yaml, None drops one."""
        folder = tmp_path / name
        folder.mkdir()
        content = {
            "task": "classification",
            "num_classes": dataset.num_classes,
            "modalities": [{"name": m.name, "kind": m.kind, "shape": list(m.shape)} for m in dataset.modalities],
        } | description
        content = {key: value for key, value in content.items() if value is not None}
        (folder / "dataset.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
        for split, samples in dataset.splits.items():
            (folder / split).mkdir()
            np.save(folder / split / "label.npy", samples.labels)
            for modality, array in samples.inputs.items():
                np.save(folder / split / f"{modality}.npy", array)
        return folder

    return write
