"""The commands that read what a study left in MLflow."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from dmr.analysis.results.record_names import COLUMNS, CONFIRM, SEARCH
from dmr.studies.cli.app import LabelsOption, NameArgument, NoTitleOption, StorageOption, command, stderr_console
from dmr.studies.cli.deployment_option import named_values
from dmr.studies.errors import StudyError

if TYPE_CHECKING:
    from dmr.analysis.results.study_results import StudyResults
    from dmr.studies.storage.study_folder import StudyFolder


def shown_results(folder: StudyFolder, stage: str | None, metrics: Literal["main", "all"] = "main") -> StudyResults:
    """The study of a folder; people are told which of its runs are left out.

    Raises:
        StudyError: there is no such study, or its MLflow store cannot be read.
    """
    from dmr.studies.reporting.stored_results import load_results

    results = load_results(folder, stage, metrics)
    if line := results.deleted_line():
        stderr_console().print(line, markup=False, soft_wrap=True)
    return results


@contextmanager
def figure_wording(labels: Sequence[str] | None, no_title: bool) -> Iterator[None]:
    """Figures drawn in here have the names and titles of `--labels` and `--no-title`. A name that none of them has is
    told.

    Raises:
        StudyError: a label is not OLD=NEW.
    """
    from dmr.analysis.figures.style import wording

    with wording(parse_labels(labels or ()), title=not no_title) as used:
        yield
    for name in sorted(set(used.labels) - used.met):
        stderr_console().print(f"--labels: no figure has {name!r}", markup=False, soft_wrap=True)


def parse_labels(options: Sequence[str]) -> dict[str, str]:
    """New names by old ones, of options such as `a=A,b best 1, defaults=B`: an old name may have commas.

    Raises:
        StudyError: a label is not OLD=NEW.
    """
    found = {}
    for option in options:
        waiting: list[str] = []
        for part in option.split(","):
            waiting.append(part)
            old, equals, new = ",".join(waiting).partition("=")
            if equals:
                if not old.strip() or not new.strip():
                    raise StudyError(f"--labels {option}: OLD=NEW is needed")
                found[old.strip()] = new.strip()
                waiting = []
        if waiting:
            raise StudyError(f"--labels {option}: OLD=NEW is needed, got {','.join(waiting).strip()!r}")
    return found


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
    from dmr.studies.storage.locations import resolve_storage
    from dmr.studies.storage.study_folder import StudyFolder

    results = shown_results(StudyFolder.open(resolve_storage(storage), name), stage, metrics)
    rows = results.table
    if stage == CONFIRM:
        rows.insert(len(COLUMNS), "config", rows["run"].map(results.runs["config"]))
    if output == "csv":
        typer.echo(rows.to_csv(index=False), nl=False)
    elif output == "json":
        typer.echo(rows.to_json(orient="records", double_precision=15))
    else:
        sys.stdout.buffer.write(rows.to_parquet(index=False))


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
    labels: LabelsOption = None,
    no_title: NoTitleOption = False,
    storage: StorageOption = None,
) -> None:
    """Draw trials by combinations, or how far they are from one trial or from the file's defaults."""
    from dmr.analysis.figures.trial_heatmap import write_heatmap
    from dmr.analysis.results.record_names import DEFAULTS
    from dmr.analysis.results.study_results import default_trials, stage_of
    from dmr.studies.storage.locations import resolve_storage
    from dmr.studies.storage.study_folder import StudyFolder

    folder = StudyFolder.open(resolve_storage(storage), name)
    if difference_to is None or difference_to == DEFAULTS:
        reference: int | str | None = difference_to
    elif difference_to.isdecimal():
        reference = int(difference_to)
    else:
        raise StudyError(f"--difference-to {difference_to}: allowed are the number of a trial, or {DEFAULTS}")
    results = shown_results(folder, SEARCH if difference_to is None else None)
    path = output or (folder.heatmap if difference_to is None else folder.path / "heatmap_difference.png")
    try:
        with figure_wording(labels, no_title):
            write_heatmap(stage_of(results, SEARCH), path, top, reference, default_trials(results))
        folder.keep(path)
        typer.echo(folder.place_of(path))
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
    rates: Annotated[
        str | None,
        typer.Option(
            metavar="MODALITY=RATE,...",
            help="How often each modality is missing in use, for the figure `rates`; default: from `deployment`.",
        ),
    ] = None,
    labels: LabelsOption = None,
    no_title: NoTitleOption = False,
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

    folder = StudyFolder.open(resolve_storage(storage), name)
    results = shown_results(folder, None)
    client = MlflowClient(folder.store_uris().tracking_uri)
    search, confirm = stage_of(results, SEARCH), stage_of(results, CONFIRM)
    comparison, _ = compared(results, lambda run: None)
    target = output or folder.figures
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StudyError(f"{target}: cannot be made: {error.strerror}") from None
    in_use = None if rates is None else parse_rates(rates, results.modalities)
    with figure_wording(labels, no_title):
        read = partial(read_artifact, client)
        for found in study_figures(search, confirm, comparison, read, in_use):
            if isinstance(found, Drawn):
                path = save_figure(found.figure, target / f"{found.name}.{form}")
                folder.keep(path)
                typer.echo(folder.place_of(path))
            else:
                stderr_console().print(f"{found.name}: not drawn: {found.reason}", markup=False, soft_wrap=True)


def parse_rates(option: str, modalities: tuple[str, ...]) -> dict[str, float]:
    """How often each modality is missing, of `audio=0.01,camera=0.2`; one that is not named always works.

    Raises:
        StudyError: an unknown modality, one that comes twice, or no number from 0 to 1.
    """
    found: dict[str, float] = {}
    for _, name, text in named_values("--rates", option):
        if name not in modalities:
            raise StudyError(f"--rates {option}: {name!r} is no modality; the modalities are {', '.join(modalities)}")
        try:
            found[name] = float(text)
        except ValueError:
            found[name] = math.nan
        if not 0.0 <= found[name] <= 1.0:
            raise StudyError(f"--rates {option}: {name}: a number from 0 to 1 is needed, got {text!r}")
    return found


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

    folder = StudyFolder.open(resolve_storage(storage), name)
    path = output or folder.report
    folder.document()  # there is such a study
    if not path.parent.is_dir():
        raise StudyError(f"{path}: there is no directory {path.parent}")
    if path.is_dir():
        raise StudyError(f"{path}: is a directory; a file is needed, for example {path / 'report.html'}")
    if path.suffix.lower() not in (".html", ".htm"):  # else a slip replaces the study file with a page
        raise StudyError(f"{path}: a report ends in .html")
    with stored_runs(folder):
        write_study_report(folder, path)
    folder.keep(path)
    typer.echo(folder.place_of(path))
