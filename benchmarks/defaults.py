"""What each default of the training buys: from what DMR 0.1 began with to what it begins with now, one step at a time.

DMRNet and modality dropout are trained from the same seeds on every step; the chosen checkpoint's mean accuracy (mIoU
for `scenes`) over all combinations of the test split is written to a file, one line per run, so that what was
interrupted goes on. `--table` prints what the file holds: means with t intervals over the seeds, and paired differences
to the step before. `planted` and `scenes` are drawn anew by each seed.

    .venv/bin/python benchmarks/defaults.py RESULTS.jsonl --data digits planted scenes DIR_OF_A_FOLDER ... --seeds 10
    .venv/bin/python benchmarks/defaults.py RESULTS.jsonl --table
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import cache
from itertools import pairwise, product
from pathlib import Path
from typing import Any, NamedTuple

import torch
from common import steady, table

from dmr.analysis.statistics import mean_interval
from dmr.data import open_dataset
from dmr.data.dataset import MultimodalDataset
from dmr.encoders import default_encoder
from dmr.encoders.mlp import MLPSettings
from dmr.encoders.pyramid import PyramidSettings
from dmr.methods import METHODS
from dmr.settings import SamplingSettings, TrainSettings
from dmr.training import EpochReport, RunSettings, fit, test

FIRST_SEED = 101
EPOCHS = {"planted": 16, "scenes": 20}  # 40 otherwise
BATCH = {"planted": 128, "scenes": 10}  # 64 otherwise
SIZES = {"planted": {"train": 2000, "val": 1000, "test": 10_000}, "scenes": {"train": 250, "val": 100, "test": 200}}


class Step(NamedTuple):
    """What is set: keys of the method (those it has), of `train` and of `sampling`."""

    method: dict[str, Any]
    train: dict[str, Any]
    sampling: dict[str, Any]


BEFORE = Step(
    {"head_norm": "batch", "hard_by": "variance"},
    {"schedule": "constant", "learning_rate": 1e-3, "weight_decay": 1e-3},
    {"combinations_per_sample": 1},
)
CHANGES = {  # each is made on top of those before it
    "before": Step({}, {}, {}),
    "schedule: cosine": Step({}, {"schedule": "cosine"}, {}),
    "head_norm: none": Step({"head_norm": "none"}, {}, {}),
    "hard_by: loss": Step({"hard_by": "loss"}, {}, {}),
    "learning_rate: 2.0e-3": Step({}, {"learning_rate": 2e-3}, {}),
    "weight_decay: 1.0e-2": Step({}, {"weight_decay": 1e-2}, {}),
    "combinations_per_sample: 4": Step({}, {}, {"combinations_per_sample": 4}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("--data", nargs="+", default=["digits", "planted", "scenes"])
    parser.add_argument("--methods", nargs="+", default=["dmrnet", "dropout"])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--table", action="store_true", help="print what the file holds, train nothing")
    arguments = parser.parse_args()
    if not arguments.table:
        jobs = product(range(FIRST_SEED, FIRST_SEED + arguments.seeds), arguments.data, arguments.methods, CHANGES)
        done = {_identity(line) for line in _lines(arguments.results)}
        todo = [job for job in jobs if (job[0], Path(job[1]).name, *job[2:]) not in done and _changes(*job[2:])]
        with ProcessPoolExecutor(arguments.processes) as pool, arguments.results.open("a", encoding="utf-8") as file:
            for line in pool.map(trained, todo):
                print(json.dumps(line), file=file, flush=True)
    for method in arguments.methods:
        print(f"\n{method}\n\n{_table([line for line in _lines(arguments.results) if line['method'] == method])}")


def trained(job: tuple[int, str, str, str]) -> dict[str, Any]:
    """Train one network; the line that is kept of it."""
    seed, data, method, change = job
    steady()
    dataset = _dataset(data, seed if data in SIZES else 0)
    step = _step(change)
    settings = _settings(dataset, method, step, seed)
    kept = _Kept()
    fit(dataset, settings, torch.device("cpu"), kept)
    metric = "accuracy" if dataset.task == "classification" else "miou"
    found = test(dataset, settings, torch.device("cpu"), kept.network)
    values = {name: found.metrics[f"test/{metric}_{name}"] for name in ("mean", "worst", "full")}
    return {"seed": seed, "data": Path(data).name, "method": method, "change": change, **values}


class _Kept:
    """The reporter of a run that nobody watches; it keeps the chosen network."""

    network: dict[str, Any]

    def load(self) -> None:
        return None

    def save(self, state: dict[str, Any], is_best: bool) -> None:
        if is_best:
            self.network = state["network"]

    def report(self, report: EpochReport) -> None:
        pass


@cache
def _dataset(data: str, seed: int) -> MultimodalDataset:
    if Path(data).is_dir():
        return open_dataset("arrays", {"path": data}, seed)
    return open_dataset(data, SIZES[data] | {"seed": seed} if data in SIZES else {}, seed)


def _settings(dataset: MultimodalDataset, method: str, step: Step, seed: int) -> RunSettings:
    encoders = {m.name: default_encoder(m, dataset.task) for m in dataset.modalities}
    if dataset.name in ("digits", "planted"):
        encoders = dict.fromkeys(encoders, MLPSettings(width=64))
    if dataset.name == "scenes":
        encoders = dict.fromkeys(encoders, PyramidSettings(width=8))
    metric = "accuracy" if dataset.task == "classification" else "miou"
    chosen = METHODS[method].Settings()
    return RunSettings(
        method=replace(chosen, **{key: value for key, value in step.method.items() if hasattr(chosen, key)}),
        encoders=encoders,
        sampling=SamplingSettings(**step.sampling),
        train=TrainSettings(epochs=EPOCHS.get(dataset.name, 40), batch_size=BATCH.get(dataset.name, 64), **step.train),
        fusion="concat",
        select=f"val/{metric}_mean",
        select_mode="max",
        deployment=None,
        seed=seed,
    )


def _step(change: str) -> Step:
    """All that is set once `change` is made."""
    names = list(CHANGES)
    made = [CHANGES[name] for name in names[: names.index(change) + 1]]
    return Step(
        *({key: value for part in parts for key, value in part.items()} for parts in zip(BEFORE, *made, strict=True))
    )


def _changes(method: str, change: str) -> bool:
    """Whether a change is one for this method."""
    return all(hasattr(METHODS[method].Settings(), key) for key in CHANGES[change].method)


def _identity(line: dict[str, Any]) -> tuple[int, str, str, str]:
    return line["seed"], line["data"], line["method"], line["change"]


def _lines(file: Path) -> Iterator[dict[str, Any]]:
    if file.exists():
        yield from map(json.loads, file.read_text(encoding="utf-8").splitlines())


def _table(lines: list[dict[str, Any]]) -> str:
    """One row per change and one column per data set: the mean in points ± half of its interval; the difference to the
    row before, paired by seed. The last row: the last change less `before`.
    """
    means = {_identity(line): 100 * line["mean"] for line in lines}
    data = list(dict.fromkeys(line["data"] for line in lines))
    changes = [change for change in CHANGES if any(line["change"] == change for line in lines)]

    def of(name: str, change: str) -> dict[int, float]:
        return {seed: mean for (seed, data, _, at), mean in means.items() if (data, at) == (name, change)}

    def difference(name: str, now: str, then: str) -> str:
        one, other = of(name, now), of(name, then)
        return _plus_minus([one[seed] - other[seed] for seed in one.keys() & other.keys()], "+")

    rows = [[changes[0], *(_plus_minus(list(of(name, changes[0]).values())) for name in data)]]
    for before, change in pairwise(changes):
        values = (
            f"{_plus_minus(list(of(name, change).values()))} ({difference(name, change, before)})" for name in data
        )
        rows.append([change, *values])
    rows.append(["all of them", *(difference(name, changes[-1], changes[0]) for name in data)])
    counts = {name: len(of(name, changes[-1])) for name in data}
    return table(["", *(f"{name}, n = {counts[name]}" for name in data)], rows)


def _plus_minus(values: list[float], sign: str = "") -> str:
    found = mean_interval(values)
    return f"{found.estimate:{sign}.2f} ± {found.high - found.estimate:.2f}"


if __name__ == "__main__":
    main()
