"""Reading a large study: 2 000 finished trials of all 63 combinations of 6 modalities in an MLflow store on SQLite.

The trials are not trained: two epochs on planted data, one a block of the search, give what a run reports, and every
trial then has its own point of the space, a history of 40 epochs and values drawn at random. They are written by the
search's own stage and tracker, as `dmr run` writes them: tags, parameters, metrics and `combinations.csv`. They are
read by `dmr table` and `dmr heatmap` in processes of their own. Memory is the peak of the resident set, VmHWM
in /proc/PID/status.

    .venv/bin/python benchmarks/large_store.py [--store DIR]   # DIR is made once and kept
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import optuna
import psutil
import torch
from common import environment, table

from dmr.files import write_text
from dmr.studies.stages.search_stage import SearchStage
from dmr.studies.storage.mlflow_store import open_store
from dmr.studies.storage.study_folder import StoreUris, StudyFolder
from dmr.studies.study_file.plan import StudyPlan, make_plan
from dmr.studies.tracking.tracker import PARENT, Tracker
from dmr.studies.trial_outcomes import TrialOutcome
from dmr.studies.yaml_io import to_yaml
from dmr.training import EpochReport, fit

NAME, EPOCHS = "large", 40
SHARE = {"log_uniform": [1e-3, 1.0]}
STUDY: dict[str, Any] = {
    "name": NAME,
    "dataset": {"name": "planted", "modalities": 6, "train": 64, "val": 64, "test": 64},
    "model": {"method": "dmrnet", "encoder": {"name": "mlp", "width": 8}, "warmup_epochs": 0},
    "search": [
        {
            "model.method": "dmrnet",
            "train.learning_rate": SHARE,
            "train.weight_decay": SHARE,
            "model.prior_std": SHARE,
            "model.noise_scale": {"uniform": [0.0, 2.0]},
            "model.kl_weight": SHARE,
            "model.hard_weight": {"uniform": [0.0, 1.0]},
        },
        {
            "model.method": "auxiliary_heads",
            "train.learning_rate": SHARE,
            "train.weight_decay": SHARE,
            "model.auxiliary_weight": SHARE,
        },
    ],
    "sampler": "random",
    "scheduler": {"name": "none"},
}
SECONDS = {"table": 20, "heatmap --top 40": 25}  # the targets
MEGABYTES = 1500


class Nowhere:
    """A reporter that keeps nothing."""

    def load(self) -> None:
        return None

    def save(self, state: dict[str, Any], is_best: bool) -> None: ...

    def report(self, report: EpochReport) -> None: ...


class Used(NamedTuple):
    """Seconds on the clock and of the processors, and the peak of the resident set in MB."""

    wall: float
    processor: float
    megabytes: float


def make_study(place: Path, trials: int) -> None:
    """The store and the study's folder in `place`."""
    plan = make_plan(STUDY | {"budget": {"trials": trials}}, "large_store.py")
    folder = StudyFolder(place / "dmr_runs", NAME)
    folder.path.mkdir(parents=True)
    os.chdir(place)  # a local store puts artifacts into the working directory
    uri = f"sqlite:///{place / 'mlflow.db'}"
    tracker = Tracker(folder.journal, uri, open_store(uri, plan.document["experiment"]))
    stage = SearchStage(plan, optuna.storages.InMemoryStorage(), tracker, folder, may_exist=False)
    stage.open()
    draw, seen = np.random.default_rng(0), {}
    while (record := stage.begin()) is not None:
        if record.block not in seen:
            settings = replace(record.settings, train=replace(record.settings.train, epochs=1))
            seen[record.block] = fit(plan.dataset, settings, torch.device("cpu"), Nowhere())
        for epoch in range(EPOCHS):
            stage.epoch(record.number, drawn_report(seen[record.block], epoch, plan, draw))
        stage.finish(record.number, TrialOutcome("completed"))
        if record.number % 20 == 19 and not tracker.flush(timeout=600.0):
            raise RuntimeError(f"MLflow: {tracker.error}")
        if record.number % 200 == 199:
            print(f"{record.number + 1} trials", file=sys.stderr, flush=True)
    tracker.end(PARENT, "FINISHED")
    if not tracker.close(timeout=600.0):
        raise RuntimeError(f"MLflow: {tracker.error}")
    write_text(folder.study_file, to_yaml(plan.document))
    folder.remember(StoreUris(uri, folder.optuna_url))  # last: it says that the study is whole


def drawn_report(seen: EpochReport, epoch: int, plan: StudyPlan, draw: np.random.Generator) -> EpochReport:
    """A report with the names of another one."""
    metrics = {name: float(draw.random()) for name in seen.metrics}
    values = {metric: draw.random(len(plan.combinations)).tolist() for metric in seen.best_values["val"]}
    return EpochReport(epoch, metrics, epoch, metrics, {"val": values})


def measure(arguments: list[str], output: Path) -> Used:
    """A command, its standard output in a file.

    Raises:
        RuntimeError: the command failed.
    """
    command, peak, times = [str(Path(sys.executable).with_name("dmr")), *arguments], 0, (0.0, 0.0)
    started = time.perf_counter()
    with open(output, "wb") as file:
        process = psutil.Popen(command, stdout=file, stderr=subprocess.PIPE)
        while process.poll() is None:
            with suppress(psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError, StopIteration):
                lines = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8").splitlines()
                peak = next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
                times = process.cpu_times()[:2]
            time.sleep(0.01)
    wall = time.perf_counter() - started
    if process.returncode:
        raise RuntimeError(process.stderr.read().decode())
    return Used(wall, sum(times), peak / 1e6)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=2000)
    parser.add_argument("--store", type=Path, help="a folder in which the store is made, unless it is there, and kept")
    given = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    print(environment(torch.get_num_threads(), "mlflow", "pandas"), flush=True)
    with tempfile.TemporaryDirectory(prefix="dmr_large_store_") as temporary:
        place = (given.store or Path(temporary)).resolve()
        storage = place / "dmr_runs"
        if not (storage / NAME / "places.json").exists():
            started = time.perf_counter()
            make_study(place, given.trials)
            print(f"made in {time.perf_counter() - started:.0f} s", file=sys.stderr)
        rows = []
        for name, options in {
            "table": [],
            "table --format parquet": ["--format", "parquet"],
            "table --metrics all": ["--metrics", "all"],
            "heatmap --top 40": ["--top", "40", "-o", str(place / "heatmap.png")],
        }.items():
            command = name.partition(" ")[0]
            output = place / "output"
            used = measure([command, NAME, "--storage", str(storage), *options], output)
            numbers = (f"{used.wall:.1f}", f"< {SECONDS[name]}" if name in SECONDS else "", f"{used.processor:.1f}")
            rows.append(
                (f"dmr {name}", *numbers, f"{used.megabytes:.0f}", f"< {MEGABYTES}", output.stat().st_size // 10**6)
            )
            print(rows[-1], file=sys.stderr, flush=True)
    head = ("command", "seconds", "target", "processor seconds", "peak MB", "target", "output MB")
    print(table(head, rows))


if __name__ == "__main__":
    main()
