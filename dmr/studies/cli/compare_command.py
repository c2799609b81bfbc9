"""`dmr compare`: methods or studies side by side."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dmr.files import write_text
from dmr.studies.cli.app import LabelsOption, NoTitleOption, StorageOption, command, stderr_console
from dmr.studies.cli.deployment_option import DeploymentOption, parse_odds
from dmr.studies.errors import StudyError

if TYPE_CHECKING:
    from collections.abc import Callable

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
    factors: Annotated[
        str | None,
        typer.Option(metavar="KEY[,KEY]", help="What these factors of `search.grid` do, in each study on its own."),
    ] = None,
    labels: LabelsOption = None,
    no_title: NoTitleOption = False,
    storage: StorageOption = None,
) -> None:
    """How good each confirmed configuration is on each combination of modalities, and how sure that is."""
    if factors is not None:
        if reference is not None or deployment is not None:
            raise StudyError("--factors: takes neither --reference nor --deployment")
        _compare_factors(names, factors.split(","), output, labels, no_title, storage)
        return
    from dmr.analysis.report.answer import decisive
    from dmr.studies.cli.comparison_screen import show_comparison
    from dmr.studies.cli.reading_commands import figure_wording

    comparison, results = compare_studies(names, storage, reference, deployment)
    show_comparison(comparison)
    said = decisive(results[0], comparison) if len(results) == 1 else ()
    for note in (*said, *comparison.notes):
        stderr_console().print(f"- {note}", markup=False, soft_wrap=True)
    if output is not None:
        tables = write_comparison(comparison, output)
        with figure_wording(labels, no_title):
            drawn = draw_comparison(comparison, output)
        for path in (*tables, *drawn):
            typer.echo(path)


def _compare_factors(
    names: list[str],
    keys: list[str],
    output: Path | None,
    labels: list[str] | None,
    no_title: bool,
    storage: Path | None,
) -> None:
    """Print what factors do and, with `output`, write tables and figures.

    Raises:
        StudyError: one line: a study is not there, or is no factorial study with these factors.
    """
    import pandas as pd

    from dmr.analysis.comparison.factors import factor_effects
    from dmr.analysis.figures.combination_heatmap import draw_heatmap
    from dmr.analysis.figures.effects import draw_effects, effect_table
    from dmr.analysis.figures.style import save_figure
    from dmr.studies.cli.comparison_screen import show_effects
    from dmr.studies.cli.reading_commands import figure_wording, shown_results
    from dmr.studies.storage.locations import resolve_storage
    from dmr.studies.storage.study_folder import StudyFolder

    tuned, fixed = [], []
    for name in names:
        folder = StudyFolder.open(resolve_storage(storage), name)
        cells, results = _cells(folder.document()), shown_results(folder, None)
        try:
            tuned.append(factor_effects(results, cells, keys))
        except ValueError as error:
            raise StudyError(str(error)) from None
        with suppress(ValueError):  # the file's own settings may lie outside of what was searched
            fixed.append(factor_effects(results, cells, keys, tuned=False))
    for one in tuned:
        show_effects(one)
    if output is None:
        return
    _make_folder(output)
    tables = {
        "effects": [(one, one.effects) for one in (*tuned, *fixed)],
        "effects_by_combination": [(one, one.by_combination) for one in (*tuned, *fixed)],
    }
    for table, parts in tables.items():
        frames = [frame.assign(study=one.study, settings="tuned" if one.tuned else "file") for one, frame in parts]
        write_text(output / f"{table}.csv", pd.concat(frames).to_csv(index=False))
        typer.echo(output / f"{table}.csv")
    with figure_wording(labels, no_title):
        typer.echo(save_figure(draw_effects(tuned), output / "effects.png"))
        for one in tuned:
            figure = draw_heatmap(effect_table(one))
            typer.echo(save_figure(figure, output / f"effects_by_combination_{one.study}.png"))


def _cells(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The value of each factor of each cell of a study, by its name; of a study without a grid there are none."""
    blocks = document["search"] if isinstance(document["search"], list) else []
    return {
        block["name"]: {key: value for key, (value,) in block["grid"].items()} for block in blocks if "grid" in block
    }


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


def write_comparison(comparison: Comparison, folder: Path) -> list[Path]:
    """The tables in full precision; the paths written.

    Raises:
        StudyError: the folder cannot be made.
    """
    _make_folder(folder)
    tables = {"summary": comparison.summary.reset_index(), "combinations": comparison.by_combination}
    for name, frame in tables.items():
        write_text(folder / f"{name}.csv", frame.to_csv(index=False))
    return [folder / f"{name}.csv" for name in tables]


def _make_folder(folder: Path) -> None:
    """Raises:
    StudyError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StudyError(f"{folder}: cannot be made: {error.strerror}") from None


def draw_comparison(comparison: Comparison, folder: Path) -> list[Path]:
    """The figures that can be drawn, as .png, in a folder that is there; the paths written."""
    from dmr.analysis.figures.all_figures import Drawn, comparison_figures
    from dmr.analysis.figures.style import save_figure

    found = comparison_figures(comparison)
    return [save_figure(one.figure, folder / f"{one.name}.png") for one in found if isinstance(one, Drawn)]
