"""What has to hold on a GPU for every method: the results of a CPU, no waiting within an epoch, the same run again.

Shared by `benchmarks/gpu.py`, which shows figures, and by the tests marked `gpu`, which judge them.
"""

from __future__ import annotations

import io
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
import torch
from common import images, run_settings
from torch import Tensor

from dmr.combinations import evaluated_combinations
from dmr.data.augmentation import AugmentSettings
from dmr.data.batches import Batches
from dmr.data.dataset import MultimodalDataset
from dmr.data.digits import digits
from dmr.data.scenes import ScenesSettings, scenes
from dmr.distributed.ranks import BatchShard
from dmr.evaluation import evaluate
from dmr.methods import METHODS, MethodSettings
from dmr.networks.network import Network
from dmr.training import EpochReport, RunSettings, build_network, fit

ROOT = Path(__file__).parents[2]
WAITS = "called a synchronizing CUDA operation"  # torch's warning
EARLY = {"warmup_epochs": 1, "teacher_epochs": 1, "remine_every": 1}
BATCH = 16
SGD = {"optimizer": "sgd", "learning_rate": 1e-2}
FEW, MANY = 2, 6  # batches of an epoch
EVALUATED_FEW, EVALUATED_MANY = 100, 1078  # samples: one batch, and several


def small_digits() -> MultimodalDataset:
    """Four vectors, 160 samples."""
    return cut(digits(), 160)


def small_images() -> MultimodalDataset:
    """Three images of 32×32, 96 samples."""
    return images(3, train=96, val=32)


def small_scenes() -> MultimodalDataset:
    """Colour and depth of 24×24 with label maps, 48 samples."""
    return scenes(ScenesSettings(size=24, train=48, val=16, test=2))


def small_gaps() -> MultimodalDataset:
    """`small_digits` of which each sample lacks a modality with probability 1/3, but never all of them."""
    dataset, draw = small_digits(), np.random.default_rng(0)
    splits = {}
    for name, split in dataset.splits.items():
        present = draw.random((len(split.labels), len(dataset.modalities))) < 2 / 3
        present[:, 0] |= ~present.any(1)
        splits[name] = replace(split, present=present)
    return replace(dataset, splits=splits)


SETS = {"digits": small_digits, "gaps": small_gaps, "images": small_images, "scenes": small_scenes}


def cut(dataset: MultimodalDataset, count: int) -> MultimodalDataset:
    """The data set with the first `count` training samples; they come again where there are fewer."""
    train = dataset.splits["train"]
    rows = np.resize(np.arange(len(train)), count)
    return replace(dataset, splits={**dataset.splits, "train": replace(train, rows=rows)})


def early(method: str) -> MethodSettings:
    """A method's settings, with every phase within three epochs."""
    own = METHODS[method].Settings
    return own(**{field.name: EARLY[field.name] for field in fields(own) if field.name in EARLY})


class Kept:
    """Keeps the state of every epoch as the bytes of a checkpoint file, and every report."""

    def __init__(self, device: torch.device, start: bytes | None = None) -> None:
        self.device = device
        self.start = start
        self.states: list[bytes] = []
        self.reports: list[EpochReport] = []

    def load(self) -> dict[str, Any] | None:
        return None if self.start is None else read(self.start, self.device)

    def save(self, state: dict[str, Any], is_best: bool) -> None:
        file = io.BytesIO()
        torch.save(state, file)
        self.states.append(file.getvalue())

    def report(self, report: EpochReport) -> None:
        self.reports.append(report)

    def losses(self, name: str = "loss") -> list[float]:
        """The mean of each epoch's training loss, or of one of its terms."""
        return [report.metrics[f"train/{name}"] for report in self.reports]


def read(state: bytes, device: torch.device | str = "cpu") -> dict[str, Any]:
    found: dict[str, Any] = torch.load(io.BytesIO(state), map_location=device, weights_only=True)
    return found


def trained(
    dataset: MultimodalDataset, settings: RunSettings, device: torch.device, start: bytes | None = None
) -> Kept:
    """A training run, from the beginning or from the state of an epoch."""
    kept = Kept(device, start)
    fit(dataset, settings, device, kept)
    return kept


# --- the results of a CPU ---------------------------------------------------------------------------------------------


class Difference(NamedTuple):
    """What a run on a device differs by from one on the CPU.

    Attributes:
        loss: of the mean training loss of the last epoch, relative.
        weights: ‖difference‖ / ‖weights‖ after it.
        values: the largest of any metric of any combination of val, after the epoch that was chosen.
    """

    loss: float
    weights: float
    values: float


def difference(dataset: MultimodalDataset, settings: RunSettings, device: torch.device) -> Difference:
    """Of a run on `device` from the same one on the CPU."""
    reference = trained(dataset, settings, torch.device("cpu"))
    with noise_of_the_cpu():
        found = trained(dataset, settings, device)
    loss, expected = found.losses()[-1], reference.losses()[-1]
    weights, right = (_weights(dataset, settings, kept) for kept in (found, reference))
    values, correct = (kept.reports[-1].best_values["val"] for kept in (found, reference))
    return Difference(
        abs(loss - expected) / abs(expected),
        float((weights - right).norm() / right.norm()),
        max(float(np.nanmax(np.abs(np.subtract(values[name], correct[name])))) for name in correct),
    )


def _weights(dataset: MultimodalDataset, settings: RunSettings, kept: Kept) -> Tensor:
    """(P,) all parameters after the last epoch."""
    network = Network.restored(settings.design(dataset), read(kept.states[-1])["network"])
    return torch.nn.utils.parameters_to_vector(network.parameters()).detach().double()


@contextmanager
def noise_of_the_cpu() -> Iterator[None]:
    """Methods draw on any device what they draw on a CPU: a GPU's generator gives other numbers for the same seed."""
    drawn, twins = BatchShard.draw, {}

    def draw(part: BatchShard, draw: Any, shape: Any, dim: int, generator: torch.Generator, **how: Any) -> Tensor:
        twin = twins.setdefault(generator, torch.Generator().manual_seed(generator.initial_seed()))
        device = how.pop("device", None)
        return drawn(part, draw, shape, dim, twin, **how).to(device)

    with patch.object(BatchShard, "draw", draw):
        yield


@contextmanager
def cudnn(**flags: bool) -> Iterator[None]:
    """Flags of torch.backends.cudnn: `allow_tf32`, which convolutions use by default and no other product, and
    `deterministic`, so that their gradients are added up in the same order each time.
    """
    before = {name: getattr(torch.backends.cudnn, name) for name in flags}
    try:
        for name, value in flags.items():
            setattr(torch.backends.cudnn, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(torch.backends.cudnn, name, value)


# --- waiting ----------------------------------------------------------------------------------------------------------


def waits_of_steps(dataset: MultimodalDataset, settings: RunSettings, device: torch.device) -> list[str]:
    """Where training waits for the GPU once per step: more often in an epoch of more batches."""
    size = settings.train.batch_size
    few, many = (cut(dataset, batches * size) for batches in (FEW, MANY))
    return _more(lambda: trained(few, settings, device), lambda: trained(many, settings, device), device)


def waits_of_evaluation(dataset: MultimodalDataset, settings: RunSettings, device: torch.device) -> list[str]:
    """Where evaluation waits for the GPU once per batch: more often with more samples."""
    network = build_network(dataset, settings).to(device)
    few, many = (Batches(cut(dataset, count).splits["train"], device) for count in (EVALUATED_FEW, EVALUATED_MANY))

    def evaluated(batches: Batches) -> None:
        with settings.design(dataset).autocast(device):
            evaluate(network, dataset, batches, evaluated_combinations(dataset.modality_names))

    return _more(lambda: evaluated(few), lambda: evaluated(many), device)


def _more(few: Callable[[], object], many: Callable[[], object], device: torch.device) -> list[str]:
    """The places that wait more often in `many`, with how often."""
    with waits(device) as once:
        few()
    with waits(device) as often:
        many()
    return [f"{count - once[place]} × {place}" for place, count in often.items() if count > once[place]]


def streamed() -> AbstractContextManager[object]:
    """Every split is read while the GPU computes, as large ones are."""
    return patch("dmr.data.batches.RESIDENT_BYTES", -1)


@contextmanager
def waits(device: torch.device) -> Iterator[Counter[str]]:
    """Counts, by line of `dmr`, what `torch.cuda.set_sync_debug_mode("error")` would stop at."""
    places: Counter[str] = Counter()

    def note(message: Warning | str, *_: object) -> None:
        if WAITS in str(message):
            places[_place(traceback.extract_stack())] += 1

    before = torch.cuda.get_sync_debug_mode() if device.type == "cuda" else 0
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = note
        if device.type == "cuda":
            torch.cuda.set_sync_debug_mode("warn")
        try:
            yield places
        finally:
            if device.type == "cuda":
                torch.cuda.set_sync_debug_mode(before)


def _place(stack: traceback.StackSummary) -> str:
    """The innermost line of `dmr` in a stack."""
    ours = [frame for frame in stack if Path(frame.filename).is_relative_to(ROOT / "dmr")]
    if not ours:
        return "outside dmr"
    return f"`{Path(ours[-1].filename).relative_to(ROOT)}:{ours[-1].lineno}` `{ours[-1].line}`"


# --- the same again ---------------------------------------------------------------------------------------------------


def differing(one: Any, other: Any, where: str = "") -> list[str]:
    """What of two states is not equal to the last bit, by name."""
    if isinstance(one, Tensor):
        return [] if torch.equal(one.nan_to_num(), other.nan_to_num()) else [where]
    if isinstance(one, dict):
        return [name for key in one for name in differing(one[key], other[key], f"{where}.{key}".lstrip("."))]
    if isinstance(one, list | tuple):
        return [
            name for n, pair in enumerate(zip(one, other, strict=True)) for name in differing(*pair, f"{where}.{n}")
        ]
    return [] if one == other else [where]


class Repeated(NamedTuple):
    """A run, done again, and gone on with from the checkpoint of its first epoch."""

    run: Kept
    again: Kept
    resumed: Kept

    def differing(self) -> tuple[list[str], list[str]]:
        """What of the last state differs, when done again and when resumed."""
        expected, again, resumed = (read(kept.states[-1]) for kept in self)
        return differing(expected, again), differing(expected, resumed)


def repeated(dataset: MultimodalDataset, settings: RunSettings, device: torch.device) -> Repeated:
    with cudnn(deterministic=True):
        run, again = (trained(dataset, settings, device) for _ in range(2))
        return Repeated(run, again, trained(dataset, settings, device, run.states[0]))


def checked_settings(dataset: MultimodalDataset, method: str, epochs: int, **train: Any) -> RunSettings:
    """A run of a method's every phase in batches of 16."""
    return run_settings(dataset, early(method), **{"epochs": epochs, "batch_size": BATCH, **train})


def augmented(settings: RunSettings) -> RunSettings:
    """The same with everything that is done to training images."""
    changes = AugmentSettings(crop=[20, 20], flip=True, rotate_degrees=10.0, scale=[1.0, 1.2], colour_jitter=0.2)
    return replace(settings, augment=changes)
