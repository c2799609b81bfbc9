"""The commands that read what a study left in MLflow."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from dmr.analysis.results.record_names import CONFIRM, SEARCH
from dmr.studies.cli.app import NameArgument, StorageOption, command, stderr_console
from dmr.studies.errors import StudyError

if TYPE_CHECKING:
    from dmr.analysis.results.study_results import StudyResults


def shown_results(
    name: str, storage: Path | None, stage: str | None, metrics: Literal["main", "all"] = "main"
) -> StudyResults:
    """A study of a storage; people are told which of its runs are left out.

    Raises:
        StudyError: there is no such study, or its MLflow store cannot be read.
    """
    from dmr.studies.reporting.stored_results import load_results

    results = load_results(name, storage, stage, metrics)
    if line := results.deleted_line():
        stderr_console().print(line, markup=False, soft_wrap=True)
    return results


@command("table")
def table(
    name: NameArgument,
    stage: Annotated[
        Literal["search", "confirm"], typer.Option(help="Runs of the search or of the confirmation.")
    ] = "search",
    metrics: Annotated[Literal["main", "all"], typer.Option(help="The main metric, or all of them.")] = "main",
    output: Annotated[
        Literal["csv", "json", "parquet"], typer.Option("--format", help="The form of the table.")
    ] = "csv",
    storage: StorageOption = None,
) -> None:
    """Every trial, split, metric and combination as one tidy table, on standard output."""
    results = shown_results(name, storage, stage, metrics)
    if output == "csv":
        typer.echo(results.table.to_csv(index=False), nl=False)
    elif output == "json":
        typer.echo(results.table.to_json(orient="records", double_precision=15))
    else:
        sys.stdout.buffer.write(results.table.to_parquet(index=False))


@command("heatmap")
def heatmap(
    name: NameArgument,
    top: Annotated[int, typer.Option(min=1, help="How many of the best trials to draw.")] = 24,
    difference_to: Annotated[
        str | None,
        typer.Option(metavar="TRIAL|defaults", help="Draw differences to a trial, or the file's defaults."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FILE", help="The file to draw: .png, .svg or .pdf.")
    ] = None,
    storage: StorageOption = None,
) -> None:
    """Draw trials by combinations, or how far they are from one trial or from the file's defaults."""
    from dmr.analysis.figures.trial_heatmap import write_heatmap
    from dmr.analysis.results.record_names import DEFAULTS
    from dmr.analysis.results.study_results import default_trials, stage_of
    from dmr.studies.storage.locations import resolve_storage
    from dmr.studies.storage.study_folder import StudyFolder

    folder = StudyFolder(resolve_storage(storage), name)
    if difference_to is None or difference_to == DEFAULTS:
        reference: int | str | None = difference_to
    elif difference_to.isdecimal():
        reference = int(difference_to)
    else:
        raise StudyError(f"--difference-to {difference_to}: allowed are the number of a trial, or {DEFAULTS}")
    results = shown_results(name, storage, SEARCH if difference_to is None else None)
    path = output or (folder.heatmap if difference_to is None else folder.path / "heatmap_difference.png")
    try:
        typer.echo(write_heatmap(stage_of(results, SEARCH), path, top, reference, default_trials(results)))
    except (ValueError, OSError) as error:
        raise StudyError(str(error)) from None


@command("figures")
def figures(
    name: NameArgument,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", metavar="DIR", help="Where the files go; default: `figures` in the study's folder."
        ),
    ] = None,
    form: Annotated[Literal["png", "svg", "pdf"], typer.Option("--format", help="The form of the files.")] = "png",
    storage: StorageOption = None,
) -> None:
    """Draw every figure that the study has data for; for the others, say why not."""
    from mlflow import MlflowClient

    from dmr.analysis.comparison.comparison import compared
    from dmr.analysis.figures.all_figures import Drawn, study_figures
    from dmr.analysis.figures.style import save_figure
    from dmr.analysis.results.artifacts import read_artifact
    from dmr.analysis.results.study_results import stage_of
    from dmr.studies.storage.locations import resolve_storage
    from dmr.studies.storage.study_folder import StudyFolder

    folder = StudyFolder(resolve_storage(storage), name)
    results = shown_results(name, storage, None)
    client = MlflowClient(folder.store_uris().tracking_uri)
    search, confirm = stage_of(results, SEARCH), stage_of(results, CONFIRM)
    comparison, _ = compared(results, lambda run: None)
    target = output or folder.figures
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StudyError(f"{target}: cannot be made: {error.strerror}") from None
    for found in study_figures(search, confirm, comparison, lambda run, path: read_artifact(client, run, path)):
        if isinstance(found, Drawn):
            typer.echo(save_figure(found.figure, target / f"{found.name}.{form}"))
        else:
            stderr_console().print(f"{found.name}: not drawn: {found.reason}", markup=False, soft_wrap=True)


@command("report")
def report(
    name: NameArgument,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", metavar="FILE.html", help="The page; default: report.html in the study's folder."
        ),
    ] = None,
    storage: StorageOption = None,
) -> None:
    """One self-contained page: the answer, what was studied, figures, tables, and how to get each number again."""
    from dmr.studies.reporting.report_file import write_study_report
    from dmr.studies.reporting.stored_results import stored_runs
    from dmr.studies.storage.locations import resolve_storage
    from dmr.studies.storage.study_folder import StudyFolder

    folder = StudyFolder(resolve_storage(storage), name)
    path = output or folder.report
    folder.document()  # there is such a study
    if not path.parent.is_dir():
        raise StudyError(f"{path}: there is no directory {path.parent}")
    if path.is_dir():
        raise StudyError(f"{path}: is a directory; a file is needed, for example {path / 'report.html'}")
    if path.suffix.lower() not in (".html", ".htm"):  # else a slip replaces the study file with a page
        raise StudyError(f"{path}: a report ends in .html")
    with stored_runs(folder):
        typer.echo(write_study_report(folder, path))
