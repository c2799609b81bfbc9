"""From MLflow to one tidy table."""

from __future__ import annotations

import csv
import gc
import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from dmr.analysis.password_masking import without_password
from dmr.analysis.results.artifacts import stored_artifact
from dmr.combinations import all_combinations

PAGE = 250
COLUMNS = ("run", "trial", "stage", "status", "method", "seed", "split", "metric", "combination", "value")
RUN_COLUMNS = ("run", "trial", "stage", "status", "method", "config", "seed", "seconds", "model")
SUMMARIES = ("mean", "worst", "full", "expected")
BLOCK = "block"  # the parameter of a search in blocks, whose names tables call the method
VALUES = "combinations.csv"  # the artifact of a run
Cell = tuple[str | None, str | None, str | None]  # split, metric, combination


@dataclass(frozen=True)
class StudyResults:
    """A study as MLflow has it.

    Attributes:
        objectives: `{metric, mode}` each, the first one orders trials.
        searched: dotted keys, each a column of the table.
        main_metric: the metric every combination has a value of, and `main_mode` its better end.
        combinations: in words, how many of all combinations were evaluated.
        tags: of the study's own run.
        runs: one row a run by its id: trial, stage, status, method, config (of a confirm run: `best 1`, `defaults`,
            ...; of the search's trial with the file's own values `defaults`), seed, seconds, NaN until it ends, and
            model, the value of `model.method`.
        table: tidy, one row a (run, split, metric, combination). Summaries over combinations, such as `accuracy_mean`,
            have no combination; a run without values has one row without split, metric, combination and value.
    """

    study: str
    dataset: str
    modalities: tuple[str, ...]
    objectives: tuple[dict[str, str], ...]
    searched: tuple[str, ...]
    main_metric: str
    main_mode: Literal["max", "min"]
    combinations: str
    parent_run_id: str
    tags: dict[str, str]
    runs: pd.DataFrame
    table: pd.DataFrame


def load_study(
    tracking_uri: str,
    study: str,
    *,
    experiment: str,
    key: str | None = None,
    stage: str | None = "search",
    metrics: Literal["main", "all"] = "main",
) -> StudyResults:
    """The runs of a study, read page by page; `all` also reads each run's `combinations.csv`, `main` no artifact.

    Args:
        key: the tag `dmr.key` of the study's own run, where a store may have several studies of this name; else the
            newest one is read.

    Raises:
        LookupError: there is no such store, experiment, or study in it, or the store cannot be read.
    """
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    store = f"MLflow store {without_password(tracking_uri)}"
    path = tracking_uri.removeprefix("sqlite:///")
    if path != tracking_uri and not Path(path).is_file():  # asking MLflow would create it
        raise LookupError(f"{store}: there is no such file")
    try:
        client = MlflowClient(tracking_uri)
        found = client.get_experiment_by_name(experiment)
        if found is None:
            raise LookupError(f"{store}: no experiment {experiment!r}")
        ids = [found.experiment_id]
        which = f"tags.study = '{study}' and tags.stage = 'study'" if key is None else f"tags.`dmr.key` = '{key}'"
        parents = client.search_runs(ids, which, max_results=1, order_by=["attributes.start_time DESC"])
        if not parents:
            raise LookupError(f"{store}: experiment {experiment!r} has no study {study!r}")
        return _read(client, ids, study, parents[0], stage, metrics)
    except (MlflowException, SQLAlchemyError, OSError) as error:
        raise LookupError(f"{store}: cannot be read: {without_password(str(error)).splitlines()[0]}") from None


def _read(client: Any, ids: list[str], study: str, parent: Any, stage: str | None, metrics: str) -> StudyResults:
    tags = parent.data.tags
    searched = tuple(json.loads(tags["searched"]))
    modalities = tuple(json.loads(tags["modalities"]))
    wanted = f"tags.mlflow.parentRunId = '{parent.info.run_id}'" + (f" and tags.stage = '{stage}'" if stage else "")
    rows: list[tuple[Any, ...]] = []
    cells = _Cells()
    for run in _pages(client, ids, wanted):
        rows.append(_run_row(run, searched))
        values = _best_values(run)
        if metrics == "all" and values:  # a run without them has no such file
            values |= _artifact_values(client, run, tags["main_metric"])
        cells.add(values)
    runs = pd.DataFrame(rows, columns=[*RUN_COLUMNS, *searched])
    return StudyResults(
        study=study,
        dataset=tags["dataset"],
        modalities=modalities,
        objectives=tuple(json.loads(tags["objectives"])),
        searched=searched,
        main_metric=tags["main_metric"],
        main_mode="min" if tags.get("main_metric_mode") == "min" else "max",
        combinations=tags["combinations"],
        parent_run_id=parent.info.run_id,
        tags=dict(tags),
        runs=runs[list(RUN_COLUMNS)].set_index("run"),
        table=_tidy(runs, cells, searched, modalities),
    )


def stage_of(results: StudyResults, stage: str) -> StudyResults:
    """The runs of one stage alone."""
    runs, table = results.runs, results.table
    return replace(results, runs=runs[runs["stage"] == stage], table=table[table["stage"] == stage])


def trial_values(results: StudyResults) -> pd.DataFrame:
    """Index trial, a column an objective: every trial that has them all, best first by the first objective."""
    table = results.table
    columns = {}
    for objective in results.objectives:
        split, metric = objective["metric"].split("/")
        rows = table[(table["split"] == split) & (table["metric"] == metric)]
        columns[objective["metric"]] = rows.set_index("trial")["value"]
    frame = pd.DataFrame(columns).dropna()
    first = results.objectives[0]
    return frame.sort_values(first["metric"], ascending=first["mode"] == "min", kind="stable")


def combination_values(results: StudyResults, split: str = "val") -> pd.DataFrame:
    """The main metric: index trial, a column a combination in order."""
    table = results.table
    rows = table[(table["split"] == split) & (table["metric"] == results.main_metric) & table["combination"].notna()]
    values = rows.pivot(index="trial", columns="combination", values="value")
    return values[[name for name in all_combinations(results.modalities).names if name in values]]


def summary_values(results: StudyResults, split: str = "val") -> pd.DataFrame:
    """The main metric's summaries over combinations: index trial, columns such as `accuracy_mean`."""
    table = results.table
    names = [f"{results.main_metric}_{summary}" for summary in SUMMARIES]
    rows = table[(table["split"] == split) & table["metric"].isin(names) & table["combination"].isna()]
    frame = rows.pivot(index="trial", columns="metric", values="value")
    return frame[[name for name in names if name in frame]]


def _pages(client: Any, ids: list[str], wanted: str) -> Iterator[Any]:
    """Oldest run first: those that begin meanwhile come last, and no page shows again what one before it had."""
    token = None
    while True:
        with _no_collecting():
            page = client.search_runs(
                ids, wanted, max_results=PAGE, order_by=["attributes.start_time ASC"], page_token=token
            )
        yield from page
        token = page.token
        if not token:
            return


@contextmanager
def _no_collecting() -> Iterator[None]:
    """A page is 10⁵ objects, and looking for cycles among them, again and again, would take two thirds of the time."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def _run_row(run: Any, searched: tuple[str, ...]) -> tuple[Any, ...]:
    """`RUN_COLUMNS`, then the searched parameters."""
    info, tags, params = run.info, run.data.tags, run.data.params
    return (
        info.run_id,
        int(tags["trial"]),
        tags.get("stage"),
        tags.get("stop_reason", info.status.lower()),
        tags.get("method"),
        tags.get("config"),
        int(tags["seed"]),
        math.nan if info.end_time is None else (info.end_time - info.start_time) / 1000,
        params.get("model.method"),
        *(params.get(key) for key in searched),
    )


def _best_values(run: Any) -> dict[Cell, float]:
    """What a run has of its best epoch, but for what it saw in training."""
    values = {}
    for name, value in run.data.metrics.items():
        best, _, rest = name.partition("/")
        parts = rest.split("/")
        if best == "best" and len(parts) > 1 and parts[0] != "train":
            values[parts[0], parts[1], parts[2] if len(parts) == 3 else None] = value
    return values


def _artifact_values(client: Any, run: Any, main_metric: str) -> dict[Cell, float]:
    """All metrics of all combinations but the main one, which the run itself has.

    Raises:
        LookupError: the file is damaged.
    """
    try:
        content = stored_artifact(client, run.info.run_id, VALUES, run.info.artifact_uri) or b""
        lines = csv.reader(content.decode().splitlines()[1:])
        return {(split, metric, name): float(value) for split, metric, name, value in lines if metric != main_metric}
    except ValueError as error:
        raise LookupError(f"run {run.info.run_id}: its {VALUES} cannot be read: {error}") from None


class _Cells:
    """Values of many runs. A few names come again in every run: each value has the number of its name."""

    def __init__(self) -> None:
        self.names: dict[Cell, int] = {}
        self.counts: list[int] = []  # of each run
        self.which: list[int] = []
        self.values: list[float] = []

    def add(self, values: dict[Cell, float]) -> None:
        """The next run's; one without values has a row of its own."""
        values = values or {(None, None, None): math.nan}
        self.counts.append(len(values))
        self.which.extend(self.names.setdefault(name, len(self.names)) for name in values)
        self.values.extend(values.values())


def _tidy(runs: pd.DataFrame, cells: _Cells, searched: tuple[str, ...], modalities: tuple[str, ...]) -> pd.DataFrame:
    """Rows by stage, trial and seed, then split, metric and combination in its order, what is missing first."""
    for key in searched:
        numbers = pd.to_numeric(runs[key], errors="coerce")
        if numbers.notna().sum() == runs[key].notna().sum():
            runs[key] = numbers
    rank = {name: position for position, name in enumerate(all_combinations(modalities).names)}
    names = pd.DataFrame(list(cells.names), columns=["split", "metric", "combination"])
    by_name = names.sort_values(
        ["split", "metric", "combination"],
        key=lambda column: column.map(rank) if column.name == "combination" else column,
        na_position="first",
    )
    by_run = runs.sort_values(["stage", "trial", "seed"], kind="stable", na_position="first")
    run, name = np.repeat(np.arange(len(runs)), cells.counts), np.array(cells.which, dtype=int)
    order = np.lexsort((np.argsort(by_name.index)[name], np.argsort(by_run.index)[run]))
    table = pd.concat(
        [frame.iloc[rows[order]].reset_index(drop=True) for frame, rows in ((runs, run), (names, name))], axis=1
    )
    table["value"] = np.array(cells.values, dtype=float)[order]
    return table[[*COLUMNS, *searched]]
