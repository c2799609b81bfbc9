"""A whole trial, from its first step to its last checkpoint, at an earlier commit and now.

Both commits train with the same seeds, in turn, each time in a process of its own with what that commit sets for its
trials' processes; reading data and imports, that of torch's compiler included, are not counted. Their metrics have to
agree. Timed are the quick start's digits, three 32×32 images with `cnn` encoders, and six vectors (63 combinations).

    .venv/bin/python benchmarks/trial.py                   # 10 minutes
    .venv/bin/python benchmarks/trial.py --before COMMIT
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

ROOT = Path(__file__).parents[1]
BEFORE = "400cbbe"
TOLERANCE = 1e-5
SETTINGS = """
import json
from dmr.studies.driver.run_study import ENGINE_SETTINGS
print(json.dumps({key: value for key, value in ENGINE_SETTINGS.items() if key.startswith("MALLOC")}))
"""


class Case(NamedTuple):
    title: str
    epochs: int
    target: float


CASES = {
    "digits": Case("digits", 20, 1.25),
    "images": Case("three images of 32×32", 4, 1.7),
    "vectors": Case("six vectors", 4, 2.5),
}


class Trial(NamedTuple):
    """What a process says of its training: seconds, processor seconds, its peak RSS in MB, metrics of each epoch."""

    wall: float
    processor: float
    peak: float
    metrics: list[dict[str, float]]


def train(case: str) -> Trial:
    """Train in this process, as a trial does: in a thread, with checkpoints."""
    import resource

    import torch
    from common import image_settings, images

    from dmr.data.dataset import Modality, MultimodalDataset, Split
    from dmr.data.digits import digits
    from dmr.direction import Direction
    from dmr.encoders import default_encoder
    from dmr.studies.workers.checkpoint_reporter import FolderReporter
    from dmr.training import EpochReport, fit

    def vectors() -> MultimodalDataset:
        draw, splits = np.random.default_rng(0), {}
        modalities = tuple(Modality(f"vector{m}", "vector", (32,)) for m in range(6))
        for name in ("train", "val"):
            labels = draw.integers(0, 10, 512)
            noise = {m.name: draw.standard_normal((512, 32)) + labels[:, None] / 10 for m in modalities}
            splits[name] = Split({key: x.astype(np.float32) for key, x in noise.items()}, labels)
        return MultimodalDataset("vectors", "classification", tuple(map(str, range(10))), modalities, splits)

    dataset = {"digits": digits, "images": lambda: images(3, 512, 512), "vectors": vectors}[case]()
    settings = image_settings(dataset, "dmrnet")
    train = replace(settings.train, epochs=CASES[case].epochs, learning_rate=1e-3, weight_decay=1e-3)
    settings = replace(settings, train=train)
    if case != "images":
        settings = replace(settings, encoders={m.name: default_encoder(m) for m in dataset.modalities})
    metrics: list[dict[str, float]] = []

    class Reporter(FolderReporter):
        def report(self, report: EpochReport) -> None:
            metrics.append(report.metrics)

    torch.set_num_threads(1)
    torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))])  # loads torch's compiler, as earlier commits do per process
    with tempfile.TemporaryDirectory() as folder:
        reporter = Reporter(Path(folder), ("val/accuracy_mean", Direction("max")))
        thread = threading.Thread(target=fit, args=(dataset, settings, torch.device("cpu"), reporter))
        started, processor = time.perf_counter(), time.process_time()
        thread.start()
        thread.join()
        wall, processor = time.perf_counter() - started, time.process_time() - processor
    assert len(metrics) == CASES[case].epochs, "the training failed"
    return Trial(wall, processor, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3, metrics)


class Checkout(NamedTuple):
    folder: Path
    environ: dict[str, str]

    def run(self, *arguments: str) -> Any:
        """What a Python process prints that imports `dmr` from this checkout."""
        command = [sys.executable, *arguments]
        found = subprocess.run(command, cwd=self.folder, env=self.environ, check=True, stdout=subprocess.PIPE)
        return json.loads(found.stdout)

    def trial(self, case: str) -> Trial:
        where, *found = self.run(str(Path(__file__).resolve()), "--train", case)
        assert Path(where).is_relative_to(self.folder), f"{where} is not of {self.folder}"
        return Trial(*found)


def checkout(folder: Path) -> Checkout:
    """With the environment that its studies give to the processes of their trials."""
    plain = {key: value for key, value in os.environ.items() if not key.startswith("MALLOC")}
    plain |= {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    return Checkout(folder, plain | Checkout(folder, plain).run("-c", SETTINGS))


@contextmanager
def worktree(commit: str) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve() / "before"
        git = ["git", "-C", str(ROOT), "worktree"]
        subprocess.run([*git, "add", "--quiet", "--detach", str(folder), commit], check=True)
        try:
            yield folder
        finally:
            subprocess.run([*git, "remove", "--force", str(folder)], check=True)


def largest_difference(one: Trial, other: Trial) -> float:
    """Of the metrics that both have, relative to values above 1."""
    pairs = [(a[name], b[name]) for a, b in zip(one.metrics, other.metrics, strict=True) for name in a.keys() & b]
    return max(abs(a - b) / max(1.0, abs(a)) for a, b in pairs)


def main() -> None:
    from common import environment, interleaved, ratio, table

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--before", default=BEFORE, metavar="COMMIT")
    parser.add_argument("--repetitions", type=int, default=10)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    given = parser.parse_args()
    print(environment(1), flush=True)
    print(
        f"{given.repetitions} trainings each, in turn, at {given.before} and now; in brackets the middle half of the "
        "ratios of neighbours.\n"
    )
    rows = []
    with worktree(given.before) as folder:
        commits = checkout(folder), checkout(ROOT)
        for case in given.cases:
            trials: tuple[list[Trial], list[Trial]] = ([], [])
            interleaved(
                lambda _, case=case, trials=trials: trials[0].append(commits[0].trial(case)),
                lambda _, case=case, trials=trials: trials[1].append(commits[1].trial(case)),
                given.repetitions,
                warm_up=0,
            )
            before, now = trials
            difference = max(largest_difference(one, other) for one, other in zip(before, now, strict=True))
            assert difference <= TOLERANCE, f"{case}: the metrics differ by {difference}"
            wall = ratio([t.wall for t in now], [t.wall for t in before])
            processor = ratio([t.processor for t in now], [t.processor for t in before])
            peaks = [f"{max(trial.peak for trial in own):.0f}" for own in trials]
            title, _, target = CASES[case]
            rows.append((title, wall, target, processor, *peaks, f"{difference:.0e}"))
            print(f"{case} done", file=sys.stderr, flush=True)
    head = ("trial", "times faster", "target", "processor time", "peak before, MB", "now", "metrics differ by")
    print(table(head, rows))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--train"]:
        import dmr

        print(json.dumps([dmr.__file__, *train(sys.argv[2])]))
    else:
        main()
