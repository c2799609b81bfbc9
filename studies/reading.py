"""The commands that read what a study left in MLflow."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from studies.commands import NameArgument, StorageOption, command
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
    from analysis.trials import write_heatmap
    from studies.folder import StudyFolder, resolve_storage

    folder = StudyFolder(resolve_storage(storage), name)
    results = _results(name, storage, "search", "main")
    try:
        typer.echo(write_heatmap(results, output or folder.heatmap, top))
    except (ValueError, OSError) as error:
        raise StudyError(str(error)) from None


@command("report")
def report(
    name: NameArgument,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FILE.html", help="Else report.html in the study's folder.")
    ] = None,
    storage: StorageOption = None,
) -> None:
    """One self-contained page: the answer, what was studied, figures, tables, and how to get each number again."""
    from studies.folder import StudyFolder, resolve_storage
    from studies.report import write_study_report

    folder = StudyFolder(resolve_storage(storage), name)
    folder.document()  # there is such a study
    if output is not None and not output.parent.is_dir():
        raise StudyError(f"{output}: there is no directory {output.parent}")
    try:
        typer.echo(write_study_report(folder, output or folder.report))
    except LookupError as error:
        raise StudyError(error.args[0]) from None


def _results(name: str, storage: Path | None, stage: str, metrics: Literal["main", "all"]) -> StudyResults:
    from analysis.results import load_study
    from studies.folder import StudyFolder, resolve_storage
    from studies.mlflow_store import fail_soon

    fail_soon()

    folder = StudyFolder(resolve_storage(storage), name)
    document = folder.document()
    uri, experiment = folder.places().tracking_uri, document["experiment"]
    try:
        return load_study(uri, name, experiment=experiment, key=folder.study_key, stage=stage, metrics=metrics)
    except LookupError as error:
        raise StudyError(error.args[0]) from None
