"""Read a study from MLflow into one tidy table."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from dmr.analysis.garbage import no_collecting
from dmr.analysis.results.artifacts import stored_artifact
from dmr.analysis.results.record_names import (
    COLUMNS,
    EPOCHS_PARAM,
    METHOD_PARAM,
    RUN_COLUMNS,
    STOPPED_EARLY,
    STUDY_STAGE,
    VALUES,
    Tag,
    children_filter,
    counted,
    deleted_experiment,
    deleted_run,
    key_filter,
    parse_best_metric,
    runs_filter,
)
from dmr.analysis.results.study_results import Objective, StudyResults
from dmr.analysis.store_uris import sqlite_file, without_password
from dmr.combinations import all_combinations
from dmr.direction import Direction

PAGE = 250
Cell = tuple[str | None, str | None, str | None]  # split, metric, combination


def load_study(
    tracking_uri: str,
    study: str,
    *,
    experiment: str | None = None,
    key: str | None = None,
    stage: str | None = "search",
    metrics: Literal["main", "all"] = "main",
) -> StudyResults:
    """Read a study from MLflow, one page of runs at a time.

        >>> results = load_study(tracking_uri, "digits")
        >>> trial_values(results).index[0]  # the best trial
        1

    Args:
        experiment: the MLflow experiment of the study; else all of the store are looked through.
        stage: of the runs, `search` or `confirm`; None reads both.
        metrics: `main` reads no artifact, `all` also reads each run's `combinations.csv`.
        key: the tag `dmr.key` of the study's own run, where a store may have several studies of this name; else the
            newest one is read.

    Raises:
        LookupError: there is no such store, experiment, or study in it, or the store cannot be read.
    """
    from mlflow import MlflowClient
    from mlflow.entities import ViewType
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    store = f"MLflow store {without_password(tracking_uri)}"
    file = sqlite_file(tracking_uri)
    if file is not None and not file.is_file():  # asking MLflow would create it
        raise LookupError(f"{store}: there is no such file")
    try:
        client = MlflowClient(tracking_uri)
        ids = _experiment_ids(client, store, experiment)
        which = runs_filter(study, STUDY_STAGE) if key is None else key_filter(key)
        newest = ["attributes.start_time DESC"]
        parents = client.search_runs(ids, which, max_results=1, order_by=newest)
        if not parents:
            for run in client.search_runs(ids, which, ViewType.DELETED_ONLY, max_results=1, order_by=newest):
                raise LookupError(f"{store}: study {study!r}: {deleted_run(run.info.run_id)}")
            where = "" if experiment is None else f"experiment {experiment!r} has "
            raise LookupError(f"{store}: {where}no study {study!r}")
        return _read(client, ids, study, parents[0], stage, metrics)
    except (MlflowException, SQLAlchemyError, OSError) as error:
        raise LookupError(f"{store}: cannot be read: {without_password(str(error)).splitlines()[0]}") from None


def _experiment_ids(client: Any, store: str, name: str | None) -> list[str]:
    """The id of this experiment, or those of all."""
    if name is None:
        return [one.experiment_id for one in client.search_experiments()]
    found = client.get_experiment_by_name(name)
    if found is None:
        raise LookupError(f"{store}: no experiment {name!r}")
    if found.lifecycle_stage != "active":
        raise LookupError(f"{store}: {deleted_experiment(name, found.experiment_id)}")
    return [found.experiment_id]


def _read(client: Any, ids: list[str], study: str, parent: Any, stage: str | None, metrics: str) -> StudyResults:
    from mlflow.entities import ViewType

    tags = parent.data.tags
    searched = tuple(json.loads(tags[Tag.SEARCHED]))
    modalities = tuple(json.loads(tags[Tag.MODALITIES]))
    rows: list[tuple[Any, ...]] = []
    cells, stopped = _Cells(), {}
    children = children_filter(parent.info.run_id, stage)
    deleted = client.search_runs(ids, children, ViewType.DELETED_ONLY)
    for run in _pages(client, ids, children):
        rows.append(_run_row(run, searched))
        if run.data.tags.get(Tag.STOP_REASON) in STOPPED_EARLY:
            stopped[run.info.run_id] = _epochs_text(run)
        values = _best_values(run)
        if metrics == "all" and values:  # a run without them has no such file
            values |= _artifact_values(client, run, tags[Tag.MAIN_METRIC])
        cells.add(values)
    runs = pd.DataFrame(rows, columns=[*RUN_COLUMNS, *searched])
    return StudyResults(
        study=study,
        dataset=tags[Tag.DATASET],
        modalities=modalities,
        objectives=tuple(
            Objective(metric=one["metric"], mode=Direction(one["mode"])) for one in json.loads(tags[Tag.OBJECTIVES])
        ),
        searched=searched,
        main_metric=tags[Tag.MAIN_METRIC],
        main_mode=Direction(tags.get(Tag.MAIN_METRIC_MODE, Direction.MAX)),
        combinations=tags[Tag.COMBINATIONS],
        parent_run_id=parent.info.run_id,
        tags=dict(tags),
        runs=runs[list(RUN_COLUMNS)].set_index("run"),
        table=_tidy(runs, cells, searched, modalities),
        stopped=stopped,
        deleted=tuple((run.info.run_name, run.info.run_id) for run in deleted),
    )


def _pages(client: Any, ids: list[str], wanted: str) -> Iterator[Any]:
    """Oldest run first: those that begin meanwhile come last, and no page shows again what one before it had."""
    token = None
    while True:
        with no_collecting():  # a page is 10⁵ objects: looking for cycles among them takes two thirds of the time
            page = client.search_runs(
                ids, wanted, max_results=PAGE, order_by=["attributes.start_time ASC"], page_token=token
            )
        yield from page
        token = page.token
        if not token:
            return


def _run_row(run: Any, searched: tuple[str, ...]) -> tuple[Any, ...]:
    """`RUN_COLUMNS`, then the searched parameters."""
    info, tags, params = run.info, run.data.tags, run.data.params
    return (
        info.run_id,
        int(tags[Tag.TRIAL]),
        tags.get(Tag.STAGE),
        tags.get(Tag.STOP_REASON, info.status.lower()),
        tags.get(Tag.METHOD),
        tags.get(Tag.CONFIG),
        int(tags[Tag.SEED]),
        math.nan if info.end_time is None else (info.end_time - info.start_time) / 1000,
        params.get(METHOD_PARAM),
        *(params.get(key) for key in searched),
    )


def _epochs_text(run: Any) -> str:
    """How far a run got that was stopped early, as far as it is known: `8 of 60 epochs`."""
    done, planned = run.data.tags.get(Tag.EPOCHS), run.data.params.get(EPOCHS_PARAM)
    if done is None:
        return "stopped early"
    return counted(int(done), "epoch") if planned is None else f"{done} of {planned} epochs"


def _best_values(run: Any) -> dict[Cell, float]:
    """The values at a run's best epoch, without those on train."""
    named = ((parse_best_metric(name), value) for name, value in run.data.metrics.items())
    return {cell: value for cell, value in named if cell is not None and cell[0] != "train"}


def _artifact_values(client: Any, run: Any, main_metric: str) -> dict[Cell, float]:
    """All metrics of all combinations but the main one, which the run itself has.

    Raises:
        LookupError: the file is damaged, or the store's artifacts are gone.
    """
    from mlflow.utils.file_utils import local_file_uri_to_path
    from mlflow.utils.uri import is_local_uri

    root = run.info.artifact_uri
    try:
        content = stored_artifact(client, run.info.run_id, VALUES, root) or b""
        if not content and is_local_uri(root) and not Path(local_file_uri_to_path(root)).parents[1].exists():
            raise ValueError(
                f"{root} is not there; where it was moved together with the store, `dmr resume` tells MLflow"
            )
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
