"""`dmr compare`: methods or studies side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dmr.analysis.results.record_names import SEARCH
from dmr.studies.cli.app import LabelsOption, NoTitleOption, StorageOption, command, stderr_console
from dmr.studies.cli.deployment_option import DeploymentOption, parse_odds
from dmr.studies.errors import StudyError

if TYPE_CHECKING:
    from collections.abc import Callable

    import pandas as pd

    from dmr.analysis.comparison.comparison import Comparison
    from dmr.analysis.results.artifacts import Samples
    from dmr.analysis.results.study_results import StudyResults


@command("compare")
def compare(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="Studies of the same data.")],
    reference: Annotated[
        str | None, typer.Option(metavar="LABEL", help="The entry to test against; else the first on val.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="DIR", help="Also summary.csv, combinations.csv and figures."),
    ] = None,
    deployment: DeploymentOption = None,
    labels: LabelsOption = None,
    no_title: NoTitleOption = False,
    storage: StorageOption = None,
) -> None:
    """How good each confirmed configuration is on each combination of modalities, and how sure that is."""
    from dmr.analysis.report.answer import decisive
    from dmr.studies.cli.comparison_screen import show_comparison
    from dmr.studies.cli.reading_commands import figure_wording

    comparison, results = compare_studies(names, storage, reference, deployment)
    show_comparison(comparison)
    said = decisive(results[0], comparison) if len(results) == 1 else ()
    for note in (*said, *comparison.notes):
        stderr_console().print(f"- {note}", markup=False, soft_wrap=True)
    if output is not None:
        tables = write_comparison(comparison, output, results)
        with figure_wording(labels, no_title):
            drawn = draw_comparison(comparison, output, results)
        for path in (*tables, *drawn):
            typer.echo(path)


def compare_studies(
    names: list[str], storage: Path | None, reference: str | None, deployment: str | None = None
) -> tuple[Comparison, list[StudyResults]]:
    """The comparison of studies of one storage, and these.

    Raises:
        StudyError: one line: a study is not there, studies are of different data, `deployment` is no odds of theirs, or
            as `compare` says.
    """
    from dmr.analysis.comparison.comparison import compare
    from dmr.analysis.results.artifacts import samples_reader
    from dmr.studies.cli.reading_commands import shown_results
    from dmr.studies.storage.locations import resolve_storage
    from dmr.studies.storage.study_folder import StudyFolder
    from dmr.studies.storage.trained_data import kept_digests

    folders = [StudyFolder.open(resolve_storage(storage), name) for name in names]
    documents = [folder.document() for folder in folders]
    digests = [kept_digests(folder) for folder in folders]
    for folder, document, own in zip(folders[1:], documents[1:], digests[1:], strict=True):
        if digests[0] is not None and own is not None:
            _check_same_content(names[0], digests[0], folder.name, own)
        else:
            _check_same_data(names[0], documents[0], folder.name, document)
    results: list[StudyResults] = []
    readers: dict[str, Callable[[str], Samples | None]] = {}
    for folder in folders:
        results.append(shown_results(folder, None))
        readers |= dict.fromkeys(results[-1].runs.index, samples_reader(folder.store_uris().tracking_uri))
    try:
        found = compare(
            results,
            reference=reference,
            samples=lambda run_id: readers[run_id](run_id),
            deployment=parse_odds(deployment, results[0].modalities),
        )
    except ValueError as error:
        raise StudyError(str(error)) from None
    return found, results


def _check_same_content(name: str, digests: dict[str, str], other: str, others: dict[str, str]) -> None:
    """Raises:
    StudyError: the studies have not been trained on the same data.
    """
    drawn = ("train/rows", "val/rows")  # a study's own seed may have drawn its val from train
    for key in dict.fromkeys((*digests, *others)):
        if key not in drawn and digests.get(key) != others.get(key):
            raise StudyError(f"{name} and {other} cannot be compared, their data differ: {key}")


def _check_same_data(name: str, document: dict[str, Any], other: str, others: dict[str, Any]) -> None:
    """Raises:
    StudyError: the studies have not the same test samples, as far as their files say.
    """
    dataset = document["dataset"]
    drawn = document.get("missing") or (dataset["name"] != "arrays" and "seed" not in dataset)
    for key in ("dataset", "missing", *(["seed"] if drawn else [])):  # the study's seed may decide what is in test
        if document.get(key) != others.get(key):
            raise StudyError(
                f"{name} and {other} cannot be compared, their data differ: {key}: "
                f"{_shown(document.get(key))}; {_shown(others.get(key))}"
            )


def _shown(value: Any) -> str:
    if not isinstance(value, dict):
        return "nothing" if value is None else str(value)
    return ", ".join(f"{key} {part}" for key, part in value.items())


def write_comparison(comparison: Comparison, folder: Path, results: Sequence[StudyResults]) -> list[Path]:
    """The tables in full precision; the paths written. That of tuning curves only where there are any.

    Raises:
        StudyError: the folder cannot be made.
    """
    from dmr.analysis.comparison.tuning import tuning_curves

    tables = {"summary": comparison.summary.reset_index(), "combinations": comparison.by_combination}
    with suppress(ValueError):  # no trial has values, or the searches had different objectives
        tables["tuning"] = tuning_curves(searches_of(results), comparison).frame
    return write_tables(tables, folder)


def write_tables(tables: Mapping[str, pd.DataFrame], folder: Path) -> list[Path]:
    """Each as NAME.csv; the paths written.

    Raises:
        StudyError: the folder cannot be made.
    """
    from dmr.files import write_text

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StudyError(f"{folder}: cannot be made: {error.strerror}") from None
    for name, frame in tables.items():
        write_text(folder / f"{name}.csv", frame.to_csv(index=False))
    return [folder / f"{name}.csv" for name in tables]


def draw_comparison(comparison: Comparison, folder: Path, results: Sequence[StudyResults]) -> list[Path]:
    """The figures that can be drawn, as .png, in a folder that is there; the paths written."""
    from dmr.analysis.figures.all_figures import Drawn, comparison_figures, tuning_figure
    from dmr.analysis.figures.style import save_figure

    found = (*comparison_figures(comparison), tuning_figure(searches_of(results), comparison))
    return [save_figure(one.figure, folder / f"{one.name}.png") for one in found if isinstance(one, Drawn)]


def searches_of(results: Sequence[StudyResults]) -> list[StudyResults]:
    """The studies with the runs of their searches alone."""
    from dmr.analysis.results.study_results import stage_of

    return [stage_of(one, SEARCH) for one in results]
