"""What DMR does on a GPU: how fast, whether the GPU is waited for, whether its results are those of a CPU.

Needs torch, torchmetrics, numpy, scikit-learn and this checkout; nothing of it is installed. The device's name and
markdown tables come as they are measured, so that a run that is cut keeps what it printed. All parts should take 8
minutes on a large GPU, the tests marked `gpu`, which judge the same checks (with pytest, hypothesis and pyyaml), 4:

    timeout 500 python3 benchmarks/gpu.py | tee gpu.md
    timeout 300 python3 -m pytest -q -m gpu tests/dmr/test_gpu.py tests/dmr/data/test_batches.py

`--only compiled` and the like give what was cut a command of its own.
"""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from common import environment, steady
from gpu_parts import many_networks, throughput
from gpu_parts.correctness import (
    SETS,
    SGD,
    Difference,
    augmented,
    checked_settings,
    cudnn,
    difference,
    repeated,
    streamed,
    trained,
    waits_of_evaluation,
    waits_of_steps,
)

from dmr.data.dataset import MultimodalDataset
from dmr.methods import METHODS

Rows = Iterator[Sequence[object]]


def show(head: Sequence[str], rows: Rows) -> None:
    """A markdown table, line by line."""
    for line in (head, ["---", *["---:"] * (len(head) - 1)]):
        print(f"| {' | '.join(line)} |", flush=True)
    for row in rows:
        print(f"| {' | '.join(map(str, row))} |", flush=True)


def checked(tiny: bool) -> tuple[dict[str, MultimodalDataset], list[str]]:
    """The data sets and the methods of the checks."""
    names, methods = (["digits"], ["dmrnet", "mmanet"]) if tiny else (list(SETS), list(METHODS))
    return {name: SETS[name]() for name in names}, methods


def columns(datasets: Iterable[str], *what: str) -> tuple[str, ...]:
    return tuple(f"{name}, {one}" for name in datasets for one in what)


def part_waits(device: torch.device, tiny: bool) -> None:
    """What `torch.cuda.set_sync_debug_mode("error")` would stop at in a step or in the evaluation of a batch: how often
    in 4 further steps per epoch, of 3 epochs, or in the further batches of an evaluation.
    """
    datasets, methods = checked(tiny)

    def row(method: str, **train: Any) -> Iterator[str]:
        for dataset in datasets.values():
            settings = checked_settings(dataset, method, 3, **train)
            for find in (waits_of_steps, waits_of_evaluation):
                yield "<br>".join(find(dataset, settings, device)) or "none"

    def rows() -> Rows:
        for method in methods:
            yield method, *row(method)
        yield "dmrnet, bfloat16", *row("dmrnet", precision="bfloat16")
        with streamed():
            yield "dmrnet, data read as needed", *row("dmrnet")

    show(("method", *columns(datasets, "steps", "evaluation")), rows())
    if "images" in datasets:
        settings = augmented(checked_settings(datasets["images"], "dmrnet", 3))
        found = waits_of_steps(datasets["images"], settings, device)
        print(f"\nSteps of `dmrnet` on augmented images: {', '.join(found) or 'none'}", flush=True)


def part_equality(device: torch.device, tiny: bool) -> None:
    """How far a GPU's epoch is from a CPU's: loss, relative; weights, ‖difference‖ / ‖weights‖; values, the largest
    difference of any metric of any combination. Rounding grows most under AdamW, where it decides the sign of steps
    along gradients that are nearly zero.
    """
    datasets, methods = checked(tiny)
    compared = {
        "float32, SGD": (False, SGD),
        "float32, SGD, convolutions in TF32": (True, SGD),
        "float32, AdamW": (False, {}),
        "bfloat16, SGD": (False, SGD | {"precision": "bfloat16"}),
    }

    def rows() -> Rows:
        for how, (tf32, train) in compared.items():
            for method in methods:
                found: list[float] = []
                for dataset in datasets.values():
                    with cudnn(allow_tf32=tf32):
                        found += difference(dataset, checked_settings(dataset, method, 1, **train), device)
                yield how, method, *(f"{value:.0e}" for value in found)

    show(("arithmetic", "method", *columns(datasets, *Difference._fields)), rows())


def part_again(device: torch.device, tiny: bool) -> None:
    """How many tensors and numbers of the state after three epochs differ when a run is done again, and when it goes on
    from its first checkpoint, with `cudnn.deterministic`; and the task loss of the first and last epoch in bfloat16.
    """
    datasets, methods = checked(tiny)

    def rows() -> Rows:
        for method in methods:
            cells: list[object] = []
            for dataset in datasets.values():
                settings = checked_settings(dataset, method, 3)
                cells += map(len, repeated(dataset, settings, device).differing())
                bfloat16 = checked_settings(dataset, method, 3, precision="bfloat16")
                first, *_, last = trained(dataset, bfloat16, device).losses("task")
                cells.append(f"{first:.2f} → {last:.2f}")
            yield method, *cells

    show(("method", *columns(datasets, "again", "resumed", "bfloat16")), rows())


def part_throughput(device: torch.device, tiny: bool) -> None:
    """Steps that encode what is present, and the same ones that encode everything; the evaluation of a split of one
    batch; the share of the time that the device is idle in each.
    """
    size = throughput.TINY if tiny else throughput.WHOLE
    show(throughput.HEAD, throughput.rows(throughput.DATA, device, size))


def part_compiled(device: torch.device, tiny: bool) -> None:
    """The same with `train.compile`, for some of the encoders and precisions: each costs a minute."""
    size = throughput.TINY if tiny else throughput.WHOLE
    encoders = (("cnn", "bfloat16"), ("cnn", "float32"), ("mlp", "bfloat16"), ("resnet18", "bfloat16"))
    show(throughput.COMPILED_HEAD, throughput.compiled_rows(encoders[: 1 if tiny else None], device, size))


def part_networks(device: torch.device, tiny: bool) -> None:
    """K networks trained as one batch by `torch.func`: milliseconds per step of all of them, and how far the gradients
    are from those of one network alone.
    """
    processes = many_networks.Processes(2 if tiny else 4)
    encoders, counts, steps = (["mlp"], (1, 2), 1) if tiny else (list(many_networks.DATA), (1, 4, 16, 64), 10)
    jobs = [many_networks.Job(encoder, k, k, 64, str(device), steps) for encoder in encoders for k in counts]
    try:
        show(many_networks.HEAD, (many_networks.row(job, processes) for job in jobs))
    finally:
        processes.close()


PARTS = {
    "waits": part_waits,
    "throughput": part_throughput,
    "equality": part_equality,
    "again": part_again,
    "networks": part_networks,
    "compiled": part_compiled,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", type=torch.device, default="cuda")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="parts, in this order")
    parser.add_argument("--tiny", action="store_true", help="whether it runs, not how fast")
    given = parser.parse_args()
    steady()
    name = torch.cuda.get_device_name(given.device) if given.device.type == "cuda" else "the CPU"
    print(f"{name}: {environment(torch.get_num_threads())}", flush=True)
    failed = []
    for part in given.only:
        started = time.perf_counter()
        print(f"\n## {part}\n\n{' '.join(PARTS[part].__doc__.split())}\n", flush=True)
        try:
            PARTS[part](given.device, given.tiny)
        except Exception:  # the other parts are worth their minutes
            traceback.print_exc()
            failed.append(part)
        print(f"\n{time.perf_counter() - started:.0f} s", flush=True)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
