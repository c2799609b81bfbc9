"""A training run as MLflow keeps it: the same for the trials of a search and for a run of its own."""

from __future__ import annotations

import csv
import io
import math
import subprocess
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from dmr.training import EpochReport
from studies.credentials import mask_password
from studies.endings import FAILURES, Ending, mlflow_status
from studies.folder import write_text
from studies.plan import StudyPlan
from studies.reporters import DIAGNOSTICS
from studies.tracking import Tracker

SAMPLES = "samples.npz"


class Tested(NamedTuple):
    """How a run did on test: summaries over combinations, and values (C,) by metric. The results of single samples are
    in the file `SAMPLES` of its folder.
    """

    metrics: dict[str, float]
    values: dict[str, list[float]]


def stage_tags(plan: StudyPlan, stage: str) -> dict[str, str]:
    """The tags of every run of a study."""
    commit = git_commit()
    return {"study": plan.study.name, "stage": stage} | ({"git_commit": commit} if commit else {})


def start_run(
    tracker: Tracker,
    plan: StudyPlan,
    key: str,
    name: str,
    stage: str,
    point: Mapping[str, Any],
    seed: int,
    parent: str | None = None,
    tags: Mapping[str, str] | None = None,
) -> None:
    """Begin the run of a point of the space, or go on with it."""
    own = {"seed": str(seed), "method": plan.label(point), **(tags or {})}
    params = plan.parameters(point, seed)
    tracker.start(key, name=name, parent=parent, tags=stage_tags(plan, stage) | own, params=params)


def end_run(
    tracker: Tracker,
    plan: StudyPlan,
    key: str,
    folder: Path,
    report: EpochReport | None,
    ending: Ending,
    tested: Tested | None = None,
) -> None:
    """Keep how the run ended, its small files in `folder` and, unless it failed, the values of the epoch the checkpoint
    was chosen at, those on test among them where it was `tested`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if report is not None and ending.reason not in FAILURES:
        best = {f"best/{name}": value for name, value in report.best_metrics.items() if name.startswith("val/")}
        names = plan.combinations.names
        best_values = report.best_values
        if tested is not None:
            best |= {f"best/{name}": value for name, value in tested.metrics.items()}
            best_values = best_values | {"test": tested.values}
            tracker.artifact(key, folder / SAMPLES)
        for split, metrics in best_values.items():
            values = zip(names, metrics[plan.main_metric], strict=True)
            best |= {f"best/{split}/{plan.main_metric}/{name}": v for name, v in values if not math.isnan(v)}
        tracker.metrics(key, {"best/epoch": report.best_epoch, **best}, step=0)  # of one step MLflow draws bars
        write_text(folder / "combinations.csv", combinations_csv(best_values, names))
        tracker.artifact(key, folder / "combinations.csv")
    if (folder / DIAGNOSTICS).exists():
        tracker.artifact(key, folder / DIAGNOSTICS)
    if ending.details or ending.message:
        text = mask_password(f"{ending.reason}: {ending.message}\n\n{ending.details}")
        write_text(folder / "error.txt", text)
        tracker.artifact(key, folder / "error.txt")
    tracker.tags(key, {"stop_reason": ending.reason})
    tracker.end(key, mlflow_status(ending.reason, 0 if report is None else report.epoch + 1))


def combinations_csv(best_values: Mapping[str, Mapping[str, list[float]]], names: tuple[str, ...]) -> str:
    """Every metric of every combination at the best epoch: split, metric, combination, value. What is not defined, such
    as a metric of a combination that no sample has, has no row.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("split", "metric", "combination", "value"))
    for split, metrics in best_values.items():
        for metric, values in metrics.items():
            pairs = zip(names, values, strict=True)
            writer.writerows((split, metric, name, repr(value)) for name, value in pairs if not math.isnan(value))
    return text.getvalue()


@cache
def git_commit() -> str | None:
    """The commit checked out in the working directory, None where there is none."""
    try:
        found = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() if found.returncode == 0 else None
