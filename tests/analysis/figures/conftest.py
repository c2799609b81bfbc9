"""Studies and comparisons made up without a store."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest

from dmr.analysis.comparison.comparison import Comparison
from dmr.analysis.comparison.entries import Entry
from dmr.analysis.results.record_names import COLUMNS, RUN_COLUMNS
from dmr.analysis.results.study_results import StudyResults
from dmr.combinations import all_combinations
from dmr.direction import Direction

METRICS = {"max": "accuracy", "min": "nll"}


def _study(
    modalities: Sequence[str],
    values: Sequence[Sequence[float]],
    points: dict[str, Sequence[Any]] | None = None,
    methods: Sequence[str] | None = None,
    defaults: Sequence[int] = (),
    mode: str = "max",
    stopped: dict[int, str] | None = None,
) -> StudyResults:
    """A search with `values` (trials, combinations), searched `points` by key, and one trial more that diverged; those
    `stopped` were pruned, with how far they got.
    """
    combinations, points = all_combinations(modalities), points or {}
    methods = methods or ["dmrnet"] * len(values)
    metric = METRICS[mode]
    runs, rows = [], []
    for trial, (own, method) in enumerate(zip(values, methods, strict=True)):
        config = "defaults" if trial in defaults else None
        status = "pruned" if trial in (stopped or {}) else "completed"
        runs.append((f"run{trial}", trial, "search", status, method, config, 0, 3.0, "dmrnet"))
        front = (f"run{trial}", trial, "search", status, method, 0, "val")
        back = tuple(column[trial] for column in points.values())
        rows.append((*front, f"{metric}_mean", None, float(np.mean(own)), *back))
        rows += [(*front, metric, name, value, *back) for name, value in zip(combinations.names, own, strict=True)]
    runs.append(("lost", len(values), "search", "diverged", "dmrnet", None, 0, 1.0, "dmrnet"))
    rows.append(("lost", len(values), "search", "diverged", "dmrnet", 0, *[None] * (4 + len(points))))
    table = pd.DataFrame(rows, columns=[*COLUMNS, *points])
    table["value"] = pd.to_numeric(table["value"])
    return StudyResults(
        study="made_up",
        dataset="digits",
        modalities=tuple(modalities),
        objectives=({"metric": f"val/{metric}_mean", "mode": Direction(mode)},),
        searched=tuple(points),
        main_metric=metric,
        main_mode=Direction(mode),
        combinations=f"all {len(combinations)}",
        parent_run_id="parent",
        tags={},
        runs=pd.DataFrame(runs, columns=list(RUN_COLUMNS)).set_index("run"),
        table=table,
        stopped={f"run{trial}": text for trial, text in (stopped or {}).items()},
    )


def _comparison(
    modalities: Sequence[str], values: dict[str, Any], reference: str, mode: str = "max", seeds: Any = None
) -> Comparison:
    """Entries `method config` with values (seeds, combinations), best first as given."""
    combinations = all_combinations(modalities)
    entries = []
    for trial, (label, own) in enumerate(values.items()):
        method, _, config = label.partition(" ")
        numbers = tuple((seeds or {}).get(label, range(1, len(own) + 1)))
        runs = tuple(f"{label} {seed}" for seed in numbers)
        array = np.asarray(own, dtype=np.float64)
        entries.append(Entry("made_up", method, config, trial, label, "dmrnet", numbers, array, array, True, runs))
    empty = pd.DataFrame()
    words = f"all {len(combinations)}"
    return Comparison(
        studies=("made_up",),
        dataset="digits",
        metric=METRICS[mode],
        mode=Direction(mode),
        split="test",
        combinations=combinations,
        combinations_text=words,
        reference=reference,
        entries=tuple(entries),
        summary=empty,
        by_combination=empty,
        deployment=None,
        notes=(),
    )


@pytest.fixture
def make_study() -> Callable[..., StudyResults]:
    return _study


@pytest.fixture
def make_comparison() -> Callable[..., Comparison]:
    return _comparison
