"""From MLflow to one tidy table."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from dmr.combinations import all_combinations

PAGE = 1_000
COLUMNS = ("run", "trial", "stage", "status", "method", "seed", "split", "metric", "combination", "value")
RUN_COLUMNS = ("run", "trial", "stage", "status", "method", "config", "seed", "seconds", "model")
SUMMARIES = ("mean", "worst", "full", "expected")


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
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")  # else one a run
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
    wanted = f"tags.mlflow.parentRunId = '{parent.info.run_id}'" + (f" and tags.stage = '{stage}'" if stage else "")
    rows: list[tuple[Any, ...]] = []
    runs: list[tuple[Any, ...]] = []
    for run in _pages(client, ids, wanted):
        runs.append(_run_row(run))
        rows.extend(_rows(run, searched))
        if metrics == "all":
            rows.extend(_artifact_rows(client, run, searched, tags["main_metric"]))
    modalities = tuple(json.loads(tags["modalities"]))
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
        runs=pd.DataFrame(runs, columns=list(RUN_COLUMNS)).set_index("run"),
        table=_tidy(rows, searched, modalities),
    )


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


def without_password(text: str) -> str:
    return re.sub(r"://(?:([^/@:]*:)[^/@]*|[^/@:]+)@", r"://\1***@", text)


def _pages(client: Any, ids: list[str], wanted: str) -> Iterator[Any]:
    token = None
    while True:
        page = client.search_runs(ids, wanted, max_results=PAGE, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def _identity(run: Any, searched: tuple[str, ...]) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    tags, params = run.data.tags, run.data.params
    status = tags.get("stop_reason", run.info.status.lower())
    front = (run.info.run_id, int(tags["trial"]), tags.get("stage"), status, tags.get("method"), int(tags["seed"]))
    return front, tuple(params.get(key) for key in searched)


def _run_row(run: Any) -> tuple[Any, ...]:
    (run_id, trial, stage, status, method, seed), _ = _identity(run, ())
    ended = run.info.end_time
    seconds = math.nan if ended is None else (ended - run.info.start_time) / 1000
    model = run.data.params.get("model.method")
    return run_id, trial, stage, status, method, run.data.tags.get("config"), seed, seconds, model


def _rows(run: Any, searched: tuple[str, ...]) -> Iterator[tuple[Any, ...]]:
    front, back = _identity(run, searched)
    empty = True
    for name, value in run.data.metrics.items():
        parts = name.split("/")
        if parts[0] != "best" or len(parts) < 3 or parts[1] == "train":
            continue
        empty = False
        yield (*front, parts[1], parts[2], parts[3] if len(parts) == 4 else None, value, *back)
    if empty:
        yield (*front, None, None, None, None, *back)


def _artifact_rows(client: Any, run: Any, searched: tuple[str, ...], main_metric: str) -> Iterator[tuple[Any, ...]]:
    """All metrics but the main one, which the run itself has."""
    run_id = run.info.run_id
    if all(file.path != "combinations.csv" for file in client.list_artifacts(run_id)):
        return
    front, back = _identity(run, searched)
    frame = pd.read_csv(client.download_artifacts(run_id, "combinations.csv"))
    for split, metric, combination, value in frame[frame["metric"] != main_metric].itertuples(index=False):
        yield (*front, split, metric, combination, value, *back)


def _tidy(rows: list[tuple[Any, ...]], searched: tuple[str, ...], modalities: tuple[str, ...]) -> pd.DataFrame:
    table = pd.DataFrame(rows, columns=[*COLUMNS, *searched])
    table["value"] = pd.to_numeric(table["value"])
    for key in searched:
        numbers = pd.to_numeric(table[key], errors="coerce")
        if numbers.notna().sum() == table[key].notna().sum():
            table[key] = numbers
    rank = {name: position for position, name in enumerate(all_combinations(modalities).names)}
    return table.sort_values(
        ["stage", "trial", "seed", "split", "metric", "combination"],
        key=lambda column: column.map(rank) if column.name == "combination" else column,
        kind="stable",
        na_position="first",
        ignore_index=True,
    )
