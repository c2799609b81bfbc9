"""The commands that read what a study left in MLflow."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from studies.commands import NameArgument, StorageOption, command
from studies.credentials import ask_for_password
from studies.errors import StudyError

if TYPE_CHECKING:
    from analysis.results import StudyResults


@command("table")
def table(
    name: NameArgument,
    stage: Annotated[Literal["search", "confirm"], typer.Option(help="Which runs.")] = "search",
    metrics: Annotated[Literal["main", "all"], typer.Option(help="The main metric, or all of them.")] = "main",
    output: Annotated[
        Literal["csv", "json", "parquet"], typer.Option("--format", help="The form of the table.")
    ] = "csv",
    storage: StorageOption = None,
) -> None:
    """Every trial, split, metric and combination as one tidy table, on standard output."""
    results = _results(name, storage, stage, metrics)
    if output == "csv":
        typer.echo(results.table.to_csv(index=False), nl=False)
    elif output == "json":
        typer.echo(results.table.to_json(orient="records", double_precision=15))
    else:
        sys.stdout.buffer.write(results.table.to_parquet(index=False))


@command("heatmap")
def heatmap(
    name: NameArgument,
    top: Annotated[int, typer.Option(min=1, help="The best so many trials.")] = 24,
    output: Annotated[Path | None, typer.Option("-o", "--output", metavar="FILE", help=".png, .svg or .pdf")] = None,
    storage: StorageOption = None,
) -> None:
    """Draw trials by combinations."""
    from analysis.heatmap import write_heatmap
    from studies.folder import StudyFolder, resolve_storage

    folder = StudyFolder(resolve_storage(storage), name)
    results = _results(name, storage, "search", "main")
    try:
        typer.echo(write_heatmap(results, output or folder.heatmap, top))
    except (ValueError, OSError) as error:
        raise StudyError(str(error)) from None


def _results(name: str, storage: Path | None, stage: str, metrics: Literal["main", "all"]) -> StudyResults:
    from analysis.results import load_study
    from studies.folder import StudyFolder, resolve_storage
    from studies.mlflow_store import TrackingError, check_database, fail_soon

    fail_soon()
    folder = StudyFolder(resolve_storage(storage), name)
    document = folder.document()
    uri, experiment = folder.places().tracking_uri, document["experiment"]
    try:
        check_database(uri)
        return load_study(uri, name, experiment=experiment, key=folder.study_key, stage=stage, metrics=metrics)
    except (LookupError, TrackingError) as error:
        raise StudyError(ask_for_password(error.args[0], "MLFLOW_TRACKING_URI")) from None
