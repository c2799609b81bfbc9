"""What a trial costs beside its training: DMR's studies against the pattern of Ray's guide for Ray Train in Ray Tune.

Without options: the quick start's study with few epochs, one trial at a time, by study_dmr.py and study_guide.py in
turn, each in a process of its own. What is not training is overhead: processes, imports, checkpoints, reports, Optuna,
MLflow. A further trial's overhead is the time from the end of one training to the end of the next, less the next one's
training. A whole study's is its wall time, from the command to its exit, less all training.

With --no-op N: one study of N trials of one epoch on 32 samples, as many at a time as there are CPUs; seconds a trial,
training included, over the first and the last 100 trials.

    .venv/bin/python benchmarks/overhead.py
    .venv/bin/python benchmarks/overhead.py --no-op 1000
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from common import environment, table

HERE = Path(__file__).parent
PACKAGES = ("ray", "optuna", "mlflow")
UNSET = ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "DMR_OPTUNA_URL", "DMR_STORAGE", "RAY_ADDRESS")
STRETCH = 100


@dataclass(frozen=True)
class Timed:
    """A study: seconds from command to exit, and those of its trials, in the order in which they ended."""

    wall: float
    began: list[float]
    ended: list[float]
    training: list[float]

    @property
    def further(self) -> list[float]:
        """Overhead of every trial but the first, where they run one at a time."""
        return [b - a - t for a, b, t in zip(self.ended, self.ended[1:], self.training[1:], strict=False)]

    @property
    def overhead(self) -> float:
        return self.wall - sum(self.training)

    @property
    def around(self) -> float:
        """Before the first training and after the last."""
        return self.wall - (self.ended[-1] - self.began[0])


def run(script: str, *arguments: object) -> Timed:
    """Run a study in a temporary directory and a process of its own."""
    with tempfile.TemporaryDirectory(prefix="dmr") as name:
        folder, script_arguments = Path(name), [str(argument) for argument in arguments]
        place = script_arguments.index("FOLDER")
        script_arguments[place] = name
        own = {"RAY_TMPDIR": name, "XDG_CACHE_HOME": name, "RAY_worker_niceness": "0", "OMP_NUM_THREADS": "1"}
        with open(folder / "output.txt", "wb") as output:
            started = time.time()
            command = [sys.executable, str(HERE / script), *script_arguments]
            rest = {key: value for key, value in os.environ.items() if key not in UNSET}
            done = subprocess.run(command, cwd=name, env=rest | own, stdout=output, stderr=output, check=False)
            wall = time.time() - started
        if done.returncode:
            sys.exit((folder / "output.txt").read_text()[-3000:])
        lines = [json.loads(line) for line in (folder / "times.jsonl").read_text().splitlines()]
    lines.sort(key=lambda line: line["ended"])
    return Timed(wall, *([line[key] for line in lines] for key in ("began", "ended", "training")))


def compare(rounds: int, trials: int, guide_trials: int, epochs: int) -> None:
    """Both studies in turn; which goes first alternates."""
    ours: list[Timed] = []
    guide: list[Timed] = []
    for number in range(rounds):
        for which in (0, 1) if number % 2 == 0 else (1, 0):
            if which == 0:
                ours.append(run("study_dmr.py", "digits", "FOLDER", trials, epochs))
            else:
                guide.append(run("study_guide.py", "FOLDER", guide_trials, epochs))
        print(f"round {number + 1} of {rounds} done", file=sys.stderr, flush=True)
    further = [[seconds for study in studies for seconds in study.further] for studies in (ours, guide)]
    one, other = statistics.median(further[0]), statistics.median(further[1])
    print(f"{rounds} studies each, in turn, of {trials} (DMR) and {guide_trials} (guide) trials of {epochs} epochs.\n")
    rows = [_row("DMR", ours, further[0]), _row("Ray's guide", guide, further[1])]
    print(table(("a further trial", "n", "training, s", "overhead, s", "middle half, s", "around the trials, s"), rows))
    whole = statistics.median(study.overhead / trials for study in ours)
    guided = statistics.median((study.overhead + (trials - guide_trials) * other) / trials for study in guide)
    print("\n" + table(("overhead", "DMR, s a trial", "Ray's guide, s a trial", "times less", "target"), [
        ("of a further trial", f"{one:.3f}", f"{other:.1f}", f"{other / one:.0f}", 50),
        (f"of a whole study of {trials} trials", f"{whole:.3f}", f"{guided:.1f} *", f"{guided / whole:.0f}", 50),
    ]))  # fmt: skip
    print(f"\n\\* measured with {guide_trials} trials; for the rest the further trial's overhead was added.")


def _row(name: str, studies: list[Timed], further: list[float]) -> tuple[object, ...]:
    low, middle, high = statistics.quantiles(further, n=4)
    training = statistics.median(seconds for study in studies for seconds in study.training)
    around = statistics.median(study.around for study in studies)
    return name, len(further), f"{training:.2f}", f"{middle:.3f}", f"{low:.3f}–{high:.3f}", f"{around:.1f}"


def no_op(trials: int) -> None:
    """Does a trial cost more at the end of a long study than at its start?"""
    study = run("study_dmr.py", "no-op", "FOLDER", trials, 1)
    stretch = min(STRETCH, trials - 1)
    first = (study.ended[stretch] - study.ended[0]) / stretch
    last = (study.ended[-1] - study.ended[-1 - stretch]) / stretch
    training = 1000 * statistics.median(study.training)
    print(f"One study of {trials} trials of 1 epoch on 32 samples, {os.cpu_count()} at a time.\n")
    head = (
        f"s a trial, first {stretch}",
        f"last {stretch}",
        "last / first",
        "target",
        "training in it, ms",
        "around, s",
    )
    print(
        table(
            head,
            [
                (
                    f"{first:.3f}",
                    f"{last:.3f}",
                    f"{last / first:.2f}",
                    "< 0.25",
                    f"{training:.0f}",
                    f"{study.around:.1f}",
                )
            ],
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--trials", type=int, default=24, help="of a study of DMR's")
    parser.add_argument("--guide-trials", type=int, default=3, help="of a study of the guide's, at least 2")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--no-op", type=int, metavar="N", help="instead, one study of N trials without work")
    given = parser.parse_args()
    print(environment(1, *PACKAGES), flush=True)
    if given.no_op:
        no_op(given.no_op)
    else:
        compare(given.rounds, given.trials, given.guide_trials, given.epochs)


if __name__ == "__main__":
    main()
