"""Steps and evaluations in samples per second, and the share of the time in which the device has nothing to do.

The method is `dmrnet`; every encoder reads data of its kind: three vectors of 64 values, three sequences of 8 channels
and 256 steps, three images of 32×32 (`cnn`) or 64×64 (`resnet18`), drawn rooms of 48×48 with label maps (`pyramid`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from common import images, interleaved, noise, run_settings, wait
from step import Steps
from torch.profiler import ProfilerActivity, profile

from dmr.combinations import evaluated_combinations
from dmr.data.batches import Batches
from dmr.data.dataset import MultimodalDataset
from dmr.data.scenes import ScenesSettings, scenes
from dmr.encoders import ENCODERS
from dmr.evaluation import evaluate
from dmr.methods.dmrnet import DMRNetSettings

PAGEABLE = "Pageable -> Device"  # in the profiler's name of a copy that no GPU can make while it computes


class Size(NamedTuple):
    """How much is measured.

    Attributes:
        samples: of the training and of the val split.
        block: steps, or evaluations, between two looks at the clock.
        repetitions: blocks that are timed, after `warm_up` blocks.
    """

    samples: tuple[int, int]
    batches: tuple[int, ...]
    block: int
    repetitions: int
    warm_up: int


WHOLE = Size((1024, 512), (64, 512), block=10, repetitions=5, warm_up=3)
TINY = Size((16, 8), (4,), block=1, repetitions=2, warm_up=1)
DATA: dict[str, Callable[[int, int], MultimodalDataset]] = {
    "mlp": lambda train, val: noise("vector", [(64,)] * 3, train, val),
    "sequence": lambda train, val: noise("sequence", [(8, 256)] * 3, train, val),
    "cnn": lambda train, val: images(3, train, val),
    "resnet18": lambda train, val: images(3, train, val, side=64),
    "pyramid": lambda train, val: scenes(ScenesSettings(train=train, val=val, test=2)),
}
HEAD = (
    "encoder",
    "precision",
    "batch",
    "step, samples/s",
    "idle",
    "pageable copies per step",
    "encodes all, samples/s",
    "times faster",
    "evaluation, samples/s",
    "idle in it",
)


def rows(encoders: Iterable[str], device: torch.device, size: Size) -> Iterator[tuple[object, ...]]:
    """Of each encoder, precision and batch, without `compile`."""
    for encoder in encoders:
        dataset = DATA[encoder](*size.samples)
        for precision in ("float32", "bfloat16"):
            steps = steps_of(dataset, encoder, device, precision=precision)
            for batch in size.batches:
                yield encoder, precision, batch, *measured(steps, batch, size)


def steps_of(dataset: MultimodalDataset, encoder: str, device: torch.device, **train: Any) -> Steps:
    return Steps(dataset, run_settings(dataset, DMRNetSettings(), ENCODERS[encoder](), **train), device)


def measured(steps: Steps, batch: int, size: Size) -> tuple[object, ...]:
    """The cells of a row from `step, samples/s` on."""
    steps.size = batch
    device, evaluation = steps.run.device, evaluation_of(steps, batch)

    def block(one: Callable[[int], object]) -> Callable[[int], None]:
        def run(number: int) -> None:
            for step in range(size.block):
                one(number * size.block + step)
            wait(device)

        return run

    present, everything = interleaved(block(steps.dmr), block(steps.everything), size.repetitions, size.warm_up)
    evaluated, _ = interleaved(block(evaluation), lambda _: None, size.repetitions, size.warm_up)
    seconds, slower, of_evaluation = (float(np.median(x)) / size.block for x in (present, everything, evaluated))
    working, copies = busy(lambda: block(steps.dmr)(0), device)
    working_in_it, _ = busy(lambda: block(evaluation)(0), device)
    return (
        f"{batch / seconds:.0f}",
        idle(working / size.block, seconds),
        f"{copies / size.block:.0f}",
        f"{batch / slower:.0f}",
        f"{slower / seconds:.2f}",
        f"{batch / of_evaluation:.0f}",
        idle(working_in_it / size.block, of_evaluation),
    )


def evaluation_of(steps: Steps, count: int) -> Callable[[int], object]:
    """Evaluates all combinations on the first `count` samples of val, as a run does after each epoch; training goes on
    after it.
    """
    run = steps.run
    combinations = evaluated_combinations(run.dataset.modality_names)
    batches = Batches(replace(run.dataset.splits["val"], rows=np.arange(count)), run.device)

    def evaluation(_: int) -> None:
        with run.design.autocast(run.device):
            evaluate(run.network, run.dataset, batches, combinations)
        run.network.train()

    return evaluation


def busy(work: Callable[[], object], device: torch.device) -> tuple[float, int]:
    """Seconds in which a GPU runs kernels and copies during `work` (a CPU: operations of torch), and how many copies
    come from memory that is not pinned.
    """
    on_gpu = device.type == "cuda"
    with profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]) as seen:
        work()
    events = [event for event in seen.events() if event.device_type.name == device.type.upper()]
    spans = sorted((e.time_range.start, e.time_range.end) for e in events if not e.is_user_annotation)
    total, reached = 0.0, 0.0
    for start, end in spans:  # what overlaps is counted once
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total / 1e6, sum(PAGEABLE in event.name for event in events)


def idle(working: float, seconds: float) -> str:
    """A profiler that sees no kernel says nothing."""
    return f"{max(0.0, 1.0 - working / seconds):.0%}" if working else "unknown"


COMPILED_HEAD = ("encoder", "precision", "first step, s", "first evaluation, s", *HEAD[2:])


def compiled_rows(
    encoders: Iterable[tuple[str, str]], device: torch.device, size: Size
) -> Iterator[tuple[object, ...]]:
    """The same with `compile`, of encoders and precisions."""
    for encoder, precision in encoders:
        torch.compiler.reset()
        steps = steps_of(DATA[encoder](*size.samples), encoder, device, precision=precision, compile=True)
        steps.size = size.batches[0]
        took = [seconds_of(one, device) for one in (steps.dmr, evaluation_of(steps, steps.size))]
        for batch in size.batches:
            yield encoder, precision, *(f"{s:.0f}" for s in took), batch, *measured(steps, batch, size)


def seconds_of(one: Callable[[int], object], device: torch.device) -> float:
    started = time.perf_counter()
    one(0)
    wait(device)
    return time.perf_counter() - started
