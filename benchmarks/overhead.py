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
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import environment, table
from timed import Timed, read_times

HERE = Path(__file__).parent
PACKAGES = ("ray", "optuna", "mlflow")
UNSET = ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "DMR_OPTUNA_URL", "DMR_STORAGE", "RAY_ADDRESS")
STRETCH = 100
SIZES = (24, 100)  # trials: the quick start's, and a longer study
TARGET = 50


def run(script: str, *arguments: object) -> Timed:
    """Run a study in a process of its own, in a temporary directory, which is the script's first argument."""
    with tempfile.TemporaryDirectory(prefix="dmr", ignore_cleanup_errors=True) as name:
        own = {"RAY_TMPDIR": name, "XDG_CACHE_HOME": name, "RAY_worker_niceness": "0", "OMP_NUM_THREADS": "1"}
        environ = {key: value for key, value in os.environ.items() if key not in UNSET} | own
        command = [sys.executable, str(HERE / script), name, *map(str, arguments)]
        output = Path(name) / "output.txt"
        with open(output, "wb") as file:
            started = time.time()
            done = subprocess.run(command, cwd=name, env=environ, stdout=file, stderr=file, check=False)
            wall = time.time() - started
        if done.returncode:
            sys.exit(output.read_text()[-3000:])
        return read_times(Path(name), wall)


def compare(rounds: int, trials: int, guide_trials: int, epochs: int) -> None:
    """Both studies in turn; which goes first alternates."""
    ours, guide = [], []
    for number in range(rounds):
        if number % 2 == 0:
            ours.append(run("study_dmr.py", "digits", trials, epochs))
        guide.append(run("study_guide.py", guide_trials, epochs))
        if number % 2 == 1:
            ours.append(run("study_dmr.py", "digits", trials, epochs))
        print(f"round {number + 1} of {rounds} done", file=sys.stderr, flush=True)
    print(f"{rounds} studies each, in turn, of {trials} (DMR) and {guide_trials} (guide) trials of {epochs} epochs.\n")
    rows = [_parts("DMR", ours), _parts("Ray's guide", guide)]
    head = ("", "n", "training a trial, s", "overhead of a further trial, s", "middle half, s", "around the trials, s")
    print(table(head, rows), end="\n\n")
    rows = [_compared("of a further trial", _further(ours), _further(guide))]
    rows += [_compared(f"of a study of {count} trials *", _whole(ours, count), _whole(guide, count)) for count in SIZES]
    print(table(("overhead a trial", "DMR, s", "Ray's guide, s", "times less", "target"), rows))
    print("\n\\* from the studies measured, with a further trial's overhead for each trial more or less than they had.")


def _parts(name: str, studies: list[Timed]) -> tuple[object, ...]:
    further = [seconds for study in studies for seconds in study.further]
    low, middle, high = statistics.quantiles(further, n=4)
    training = statistics.median(seconds for study in studies for seconds in study.training)
    around = statistics.median(study.around for study in studies)
    return name, len(further), f"{training:.2f}", f"{middle:.3f}", f"{low:.3f}–{high:.3f}", f"{around:.1f}"


def _further(studies: list[Timed]) -> float:
    return statistics.median(seconds for study in studies for seconds in study.further)


def _whole(studies: list[Timed], trials: int) -> float:
    """Overhead a trial of a study of so many trials, from command to exit."""
    more, one = [trials - len(study.training) for study in studies], _further(studies)
    return statistics.median((s.overhead + m * one) / trials for s, m in zip(studies, more, strict=True))


def _compared(name: str, ours: float, guide: float) -> tuple[object, ...]:
    return name, f"{ours:.3f}", f"{guide:.2f}", f"{guide / ours:.0f}", TARGET


def no_op(trials: int) -> None:
    """Does a trial cost more at the end of a long study than at its start?"""
    study = run("study_dmr.py", "no-op", trials, 1)
    stretch = min(STRETCH, trials - 1)
    first = (study.ended[stretch] - study.ended[0]) / stretch
    last = (study.ended[-1] - study.ended[-1 - stretch]) / stretch
    training = f"{1000 * statistics.median(study.training):.0f}"
    print(f"One study of {trials} trials of 1 epoch on 32 samples, {os.cpu_count()} at a time.\n")
    head = (
        f"first {stretch}, s a trial",
        f"last {stretch}",
        "target",
        "last / first",
        "training in it, ms",
        "around, s",
    )
    row = (f"{first:.3f}", f"{last:.3f}", "< 0.25", f"{last / first:.2f}", training, f"{study.around:.1f}")
    print(table(head, [row]))


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
