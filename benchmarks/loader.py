"""Reading batches: samples a second against a plain DataLoader over per-sample reads of the same files.

Memory-mapped .npy files in the `arrays` layout, shuffled batches of 64, nothing done with the batches. Ours gathers a
batch with one index a modality; `ahead` is the path of splits larger than `RESIDENT_BYTES`, in a thread. The plain one
is `DataLoader(dataset, 64, shuffle=True)` around a `__getitem__` that reads one sample of each modality. Before timing,
both have to give every sample once. The files are in the system's cache.

    .venv/bin/python benchmarks/loader.py
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from common import environment, interleaved, ratio, steady, table
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

import dmr.data.batches
from dmr.data.batches import Batch, Batches, batch_positions
from dmr.data.dataset import Split

SETS = {
    "vectors": (20_000, {"a": (64,), "b": (32,), "c": (128,)}, np.float32, 5),
    "images": (2_000, {"rgb": (3, 112, 112), "depth": (1, 112, 112), "ir": (1, 112, 112)}, np.uint8, 2),
    "images, float32": (2_000, {"rgb": (3, 112, 112), "depth": (1, 112, 112)}, np.float32, 2),
}
BATCH = 64


class Samples(Dataset):
    """One sample after the other, as a tutorial reads them."""

    def __init__(self, folder: Path, names: Iterable[str]) -> None:
        self.arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in names}
        self.labels = np.load(folder / "label.npy", mmap_mode="r")

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, position: int) -> tuple[dict[str, Tensor], int]:
        inputs = {name: torch.from_numpy(np.array(array[position])) for name, array in self.arrays.items()}
        return inputs, int(self.labels[position])


def write(folder: Path, count: int, shapes: dict[str, tuple[int, ...]], dtype: type) -> Split:
    """Files in which the first value of a sample tells it from most others."""
    draw = np.random.default_rng(0)
    for name, shape in shapes.items():
        np.save(folder / f"{name}.npy", draw.integers(0, 255, (count, *shape)).astype(dtype))
    np.save(folder / "label.npy", np.arange(count))
    inputs = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in shapes}
    return Split(inputs, np.load(folder / "label.npy", mmap_mode="r"))


def epoch_of(split: Split, large: bool) -> Callable[[int], list[int]]:
    """An epoch of ours; gives the labels in their order."""
    dmr.data.batches.RESIDENT_BYTES = 0 if large else 2 * 2**30
    batches = Batches(split, torch.device("cpu"))

    def run(number: int) -> list[int]:
        order = torch.Generator().manual_seed(number)
        return read(batches.stream(batch_positions(len(split), BATCH, order)))

    return run


def read(batches: Iterable[Batch]) -> list[int]:
    seen = [labels for _, labels in batches]
    return torch.cat(seen).tolist()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=20)
    given = parser.parse_args()
    steady()
    print(environment(torch.get_num_threads()), flush=True)
    print(f"Medians of {given.repetitions} epochs each, in turn; in brackets the middle half of neighbours.\n")
    rows = []
    for name, (count, shapes, dtype, target) in SETS.items():
        with tempfile.TemporaryDirectory() as folder:
            split = write(Path(folder), count, shapes, dtype)
            loader = DataLoader(Samples(Path(folder), shapes), BATCH, shuffle=True)
            for how, large in (("at once", False), ("ahead", True)):
                ours = epoch_of(split, large)
                assert sorted(ours(0)) == sorted(read(loader)) == list(range(count))
                fast, slow = interleaved(ours, lambda _, plain=loader: read(plain), given.repetitions, warm_up=1)
                speeds = [f"{count / sorted(seconds)[len(seconds) // 2]:,.0f}" for seconds in (slow, fast)]
                rows.append((name, how, *speeds, ratio(fast, slow), target))
    print(table(("set", "ours", "plain, samples/s", "ours, samples/s", "times faster", "target"), rows), flush=True)


if __name__ == "__main__":
    main()
