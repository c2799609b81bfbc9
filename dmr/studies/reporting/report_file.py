"""The report of a study, from where its folder says that it lies."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dmr.studies.cli.app import NameArgument, StorageOption, command
from dmr.studies.errors import StudyError

if TYPE_CHECKING:
    from dmr.studies.storage.study_folder import StudyFolder


@command("report")
def report(
    name: NameArgument,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FILE.html", help="Else report.html in the study's folder.")
    ] = None,
    storage: StorageOption = None,
) -> None:
    """One self-contained page: the answer, what was studied, figures, tables, and how to get each number again."""
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
    with stored_runs(folder):
        typer.echo(write_study_report(folder, path))


def write_study_report(folder: StudyFolder, path: Path, figures: Path | None = None) -> Path:
    """Write the page of a study that MLflow has; the file is there whole or not at all.

    Args:
        figures: a folder for the figures on it, as .png.

    Raises:
        StudyError: the study's folder is damaged.
        LookupError: MLflow has no such study, or cannot be read.
        OSError: the file cannot be written.
    """
    from dmr.analysis.report.page import Source, write_report

    document = folder.document()
    source = Source(
        tracking_uri=folder.store_uris().tracking_uri,
        experiment=document["experiment"],
        study=folder.name,
        key=folder.study_key,
        study_file=folder.study_file.read_text(encoding="utf-8"),
    )
    return write_report(source, path, figures)
