"""What a trial costs beside its training: DMR's studies against the pattern of Ray's guide for Ray Train in Ray Tune.

Without options: the quick start's study with few epochs, one trial at a time, by study_dmr.py and study_guide.py in
turn, each in a process of its own. What is not training is overhead: processes, imports, checkpoints, reports, Optuna,
MLflow. A further trial's overhead is the time from the end of one training to the end of the next, less the next one's
training. A whole study's is its wall time, from the command to its exit, less all training.

With --no-op N: a study of N trials of one epoch on 32 samples, as many at a time as there are CPUs, by study_dmr.py
and by study_tune.py (stock Tune, OptunaSearch and Ray's MLflow callback): seconds a trial, training included, over the
first and the last 100 trials, and the driver's memory at the 100th and at the last.

With --plain: the quick start as `make study` runs it, against its trials by plain Optuna with two processes
(study_plain.py), in turn.

    .venv/bin/python benchmarks/overhead.py
    .venv/bin/python benchmarks/overhead.py --plain
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
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import optuna
from common import environment, table
from timed import Timed, read_times
from watched import Watched, watch

HERE = Path(__file__).parent
PACKAGES = ("ray", "optuna", "mlflow")
UNSET = ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "DMR_OPTUNA_URL", "DMR_STORAGE", "RAY_ADDRESS")
STRETCH = 100
SIZES = (24, 100)  # trials: the quick start's, and a longer study
TARGET = 50


class Whole(NamedTuple):
    """Seconds of a study from command to exit, before its first trial, after its last, and of these until the figures
    and the report are there; the epochs of its trials.
    """

    wall: float
    before: float
    after: float
    report: float
    epochs: int


def run(script: str, *arguments: object) -> Timed:
    """Run a study in a process of its own."""
    return watched_run(script, *arguments)[0]


def whole_run(*command: object) -> Whole:
    """Run the quick start's study in a process of its own, in a temporary directory."""
    with study_folder() as (folder, environ):
        output = folder / "output.txt"
        with open(output, "wb") as file:
            started = datetime.now()
            arguments = [sys.executable, *map(str, command)]
            code = subprocess.run(arguments, cwd=folder, env=environ, stdout=file, stderr=file, check=False).returncode
            ended = datetime.now()
        if code:
            sys.exit(output.read_text(encoding="utf-8")[-3000:])
        (database,) = folder.rglob("optuna.db")
        (study,) = optuna.get_all_study_names(f"sqlite:///{database}")
        trials = optuna.load_study(study_name=study, storage=f"sqlite:///{database}").trials
        last = max(trial.datetime_complete for trial in trials)
        report = database.with_name("report.html")
        return Whole(
            (ended - started).total_seconds(),
            (min(trial.datetime_start for trial in trials) - started).total_seconds(),
            (ended - last).total_seconds(),
            report.stat().st_mtime - last.timestamp() if report.exists() else 0.0,
            sum(len(trial.intermediate_values) for trial in trials),
        )


def watched_run(script: str, *arguments: object) -> tuple[Timed, Watched]:
    """Run a study in a process of its own, in a temporary directory, which is the script's first argument."""
    with study_folder() as (folder, environ):
        command = [sys.executable, str(HERE / script), str(folder), *map(str, arguments)]
        output = folder / "output.txt"
        with open(output, "wb") as file:
            started = time.time()
            process = subprocess.Popen(command, cwd=folder, env=environ, stdout=file, stderr=file)
            watched = watch(process)
            wall = time.time() - started
        if process.returncode:
            sys.exit(output.read_text(encoding="utf-8")[-3000:])
        return read_times(folder, wall), watched


@contextmanager
def study_folder() -> Iterator[tuple[Path, dict[str, str]]]:
    """A temporary folder for a study, and the environment of its process."""
    with tempfile.TemporaryDirectory(prefix="dmr", ignore_cleanup_errors=True) as name:
        own = {"RAY_TMPDIR": name, "XDG_CACHE_HOME": name, "RAY_worker_niceness": "0", "OMP_NUM_THREADS": "1"}
        yield Path(name), {key: value for key, value in os.environ.items() if key not in UNSET} | own


def plain(rounds: int, trials: int, epochs: int) -> None:
    """`make study` and plain Optuna in turn; which goes first alternates."""
    study = HERE.parent / "studies" / "digits.yaml"
    dmr = ["-c", "from dmr.studies.cli import main; main()", "run", study, "--trials", trials]
    commands = {
        "DMR": [*dmr, "--set", f"train.epochs={epochs}"],
        "plain Optuna": [HERE / "study_plain.py", ".", trials, epochs],
    }
    runs: dict[str, list[Whole]] = {name: [] for name in commands}
    for number in range(rounds):
        for name in list(commands)[:: -1 if number % 2 else 1]:
            runs[name].append(whole_run(*commands[name]))
            print(f"round {number + 1} of {rounds}: {name}", runs[name][-1], file=sys.stderr, flush=True)
    ours, others = runs["DMR"], runs["plain Optuna"]
    ratios = [a.wall / b.wall for a, b in zip(ours, others, strict=True)]
    share = statistics.median(one.report / one.wall for one in ours)
    print(f"{rounds} studies each, in turn, of {trials} trials of at most {epochs} epochs, two at a time; medians.\n")
    rows = [
        (name, *(f"{statistics.median(values):.1f}" for values in zip(*of, strict=True))) for name, of in runs.items()
    ]
    head = ("", "wall, s", "before the first trial", "after the last", "figures and report", "epochs")
    print(table(head, rows), end="\n\n")
    between = f"{min(ratios):.2f}–{max(ratios):.2f}"
    print(f"`make study` takes {statistics.median(ratios):.2f} ({between}) times as long; target 1.3.")
    print(f"Figures and report are {share:.0%} of it.")


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


def no_op(rounds: int, trials: int) -> None:
    """Does a trial cost more at the end of a long study than at its start, and does its driver grow?"""
    studies = {"DMR": ("study_dmr.py", "no-op"), "stock Tune": ("study_tune.py",)}
    stretch = min(STRETCH, trials - 1)
    costs, memory = [], []
    for number in range(rounds):
        for name in list(studies)[:: -1 if number % 2 else 1]:
            study, watched = watched_run(*studies[name], trials, 1)
            costs.append((name, *_costs(study, watched, stretch)))
            memory.append((name, *_memory(study, watched, stretch)))
            print(f"{study.wall:.0f} s:", costs[-1], memory[-1], file=sys.stderr, flush=True)
    print(f"Studies of {trials} trials of 1 epoch on 32 samples, {os.cpu_count()} at a time.\n")
    head = ("", f"first {stretch}, s a trial", f"last {stretch}", "target", "last / first")
    processor = (f"first {stretch}, processor s a trial", f"last {stretch}", "of the driver")
    print(table((*head, *processor, "training in it, ms", "around, s"), costs), end="\n\n")
    head = ("driver", f"RSS at trial {stretch}, MB", f"at trial {trials}", "growth", "target", "growth of RssAnon")
    print(table(head, memory))


def _costs(study: Timed, watched: Watched, stretch: int) -> tuple[object, ...]:
    ends = (study.ended[0], study.ended[stretch], study.ended[-1 - stretch], study.ended[-1])

    def a_trial(at: list[float]) -> tuple[float, float]:
        return (at[1] - at[0]) / stretch, (at[3] - at[2]) / stretch

    first, last = a_trial(list(ends))
    seconds = a_trial([watched.at(end, watched.processor_of_all) for end in ends])
    own = a_trial([watched.at(end, watched.processor) for end in ends])
    processor = (f"{seconds[0]:.3f}", f"{seconds[1]:.3f}", f"{own[0]:.3f}, {own[1]:.3f}")
    training = f"{1000 * statistics.median(study.training):.0f}"
    return f"{first:.3f}", f"{last:.3f}", "≤ 0.10", f"{last / first:.2f}", *processor, training, f"{study.around:.1f}"


def _memory(study: Timed, watched: Watched, stretch: int) -> tuple[object, ...]:
    """Of the driver."""
    early, late = study.ended[stretch - 1], study.ended[-1]
    resident = [watched.at(end, watched.resident) for end in (early, late)]
    own = [watched.at(end, watched.anonymous) for end in (early, late)]
    growth = resident[1] - resident[0]
    return f"{resident[0]:.0f}", f"{resident[1]:.0f}", f"{growth:.0f}", "< 150", f"{own[1] - own[0]:.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, help="4, with --no-op 1")
    parser.add_argument("--plain", action="store_true", help="instead, against plain Optuna with two processes")
    parser.add_argument("--trials", type=int, default=24, help="of a study of DMR's")
    parser.add_argument("--guide-trials", type=int, default=3, help="of a study of the guide's, at least 2")
    parser.add_argument("--epochs", type=int, help="3, with --plain 40")
    parser.add_argument("--no-op", type=int, metavar="N", help="instead, studies of N trials without work")
    given = parser.parse_args()
    print(environment(1, *PACKAGES), flush=True)
    if given.no_op:
        no_op(given.rounds or 1, given.no_op)
    elif given.plain:
        plain(given.rounds or 4, given.trials, given.epochs or 40)
    else:
        compare(given.rounds or 4, given.trials, given.guide_trials, given.epochs or 3)


if __name__ == "__main__":
    main()
