"""`dmr compare`: methods or studies side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dmr.analysis.results.record_names import SEARCH
from dmr.studies.cli.app import LabelsOption, NoTitleOption, StorageOption, command, stderr_console
from dmr.studies.cli.deployment_option import DeploymentOption, parse_odds
from dmr.studies.errors import StudyError

if TYPE_CHECKING:
    import pandas as pd

    from dmr.analysis.comparison.across import Across
    from dmr.analysis.comparison.comparison import Comparison
    from dmr.analysis.results.artifacts import Samples
    from dmr.analysis.results.study_results import StudyResults
    from dmr.studies.storage.study_folder import StudyFolder


@command("compare")
def compare(
    names: Annotated[
        list[str], typer.Argument(metavar="NAME...", help="Studies of the same data; with --across of different data.")
    ],
    across: Annotated[
        bool, typer.Option("--across", help="Methods over data sets, one study each: ranks, wins, and their intervals.")
    ] = False,
    reference: Annotated[
        str | None,
        typer.Option(metavar="LABEL", help="The entry, or method, to compare with; else the first on val."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="DIR", help="Also the tables as .csv, and figures."),
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
        if across or reference is not None or deployment is not None:
            raise StudyError("--factors: not with --across, --reference or --deployment")
        _compare_factors(names, factors.split(","), output, labels, no_title, storage)
        return
    from dmr.analysis.report.answer import decisive
    from dmr.studies.cli.across_screen import show_across
    from dmr.studies.cli.comparison_screen import show_comparison
    from dmr.studies.cli.reading_commands import figure_wording

    write: Callable[[Path], list[Path]]
    draw: Callable[[Path], list[Path]]
    if across:
        if deployment is not None:
            raise StudyError("--deployment: not with --across, where each study has its own")
        standings = compare_across(names, storage, reference)
        show_across(standings)
        notes = standings.notes
        write, draw = partial(write_across, standings), partial(draw_across, standings)
    else:
        comparison, results = compare_studies(names, storage, reference, deployment)
        show_comparison(comparison)
        notes = (*(decisive(results[0], comparison) if len(results) == 1 else ()), *comparison.notes)
        write, draw = partial(write_comparison, comparison, results), partial(draw_comparison, comparison, results)
    for note in notes:
        stderr_console().print(f"- {note}", markup=False, soft_wrap=True)
    if output is not None:
        tables = write(output)
        with figure_wording(labels, no_title):
            drawn = draw(output)
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

    from dmr.analysis.factors.effect_figures import draw_effects, effect_table
    from dmr.analysis.factors.effects import factor_effects
    from dmr.analysis.figures.combination_heatmap import draw_heatmap
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
    both = [*tuned, *fixed]
    tables = {
        "effects": pd.concat([one.labelled(one.effects) for one in both]),
        "effects_by_combination": pd.concat([one.labelled(one.by_combination) for one in both]),
    }
    for path in write_tables(tables, output):
        typer.echo(path)
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


def compare_across(names: list[str], storage: Path | None, reference: str | None) -> Across:
    """The methods of studies of different data sets, of one storage.

    Raises:
        StudyError: one line: a study is not there, two are of the same data, or as `across` says.
    """
    from dmr.analysis.comparison.across import across
    from dmr.studies.cli.reading_commands import shown_results
    from dmr.studies.storage.locations import resolve_storage
    from dmr.studies.storage.study_folder import StudyFolder

    folders = [StudyFolder.open(resolve_storage(storage), name) for name in dict.fromkeys(names)]
    for one, other in combinations(folders, 2):
        if different_data(one, other) is None:
            raise StudyError(f"{one.name} and {other.name} are of the same data: compare them without --across")
    results = {folder.name: shown_results(folder, None) for folder in folders}
    try:
        return across([results[name] for name in names], reference)
    except ValueError as error:
        raise StudyError(str(error)) from None


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

    folders = [StudyFolder.open(resolve_storage(storage), name) for name in names]
    for folder in folders[1:]:
        if (different := different_data(folders[0], folder)) is not None:
            raise StudyError(f"{names[0]} and {folder.name} cannot be compared, their data differ: {different}")
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


def different_data(one: StudyFolder, other: StudyFolder) -> str | None:
    """In what the data of two studies differ: by their content where it is known of both, else as far as their files
    say; None where they are the same.
    """
    from dmr.studies.storage.trained_data import kept_digests

    digests, others = kept_digests(one), kept_digests(other)
    if digests is not None and others is not None:
        return _different_content(digests, others)
    return _different_files(one.document(), other.document())


def _different_content(digests: dict[str, str], others: dict[str, str]) -> str | None:
    drawn = ("train/rows", "val/rows")  # a study's own seed may have drawn its val from train
    keys = (key for key in dict.fromkeys((*digests, *others)) if key not in drawn)
    return next((key for key in keys if digests.get(key) != others.get(key)), None)


def _different_files(document: dict[str, Any], others: dict[str, Any]) -> str | None:
    """In what they have not the same test samples."""
    dataset = document["dataset"]
    drawn = document.get("missing") or (dataset["name"] != "arrays" and "seed" not in dataset)
    for key in ("dataset", "missing", *(["seed"] if drawn else [])):  # the study's seed may decide what is in test
        if document.get(key) != others.get(key):
            return f"{key}: {_shown(document.get(key))}; {_shown(others.get(key))}"
    return None


def _shown(value: Any) -> str:
    if not isinstance(value, dict):
        return "nothing" if value is None else str(value)
    return ", ".join(f"{key} {part}" for key, part in value.items())


def write_comparison(comparison: Comparison, results: Sequence[StudyResults], folder: Path) -> list[Path]:
    """The tables in full precision; the paths written. That of tuning curves only where there are any.

    Raises:
        StudyError: the folder cannot be made.
    """
    from dmr.analysis.comparison.tuning import tuning_curves

    tables = {"summary": comparison.summary.reset_index(), "combinations": comparison.by_combination}
    with suppress(ValueError):  # no trial has values, or the searches had different objectives
        tables["tuning"] = tuning_curves(searches_of(results), comparison).frame
    return write_tables(tables, folder)


def write_across(found: Across, folder: Path) -> list[Path]:
    """The tables in full precision; the paths written.

    Raises:
        StudyError: the folder cannot be made.
    """
    tables = {"levels": found.levels, "ranks": found.ranks, "pairs": found.pairs, "differences": found.differences}
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


def draw_comparison(comparison: Comparison, results: Sequence[StudyResults], folder: Path) -> list[Path]:
    """The figures that can be drawn, as .png, in a folder that is there; the paths written."""
    from dmr.analysis.figures.all_figures import Drawn, comparison_figures, tuning_figure
    from dmr.analysis.figures.style import save_figure

    found = (*comparison_figures(comparison), tuning_figure(searches_of(results), comparison))
    return [save_figure(one.figure, folder / f"{one.name}.png") for one in found if isinstance(one, Drawn)]


def draw_across(found: Across, folder: Path) -> list[Path]:
    """A figure of each summary, as .png, in a folder that is there; the paths written."""
    from dmr.analysis.figures.across_heatmap import draw_standings
    from dmr.analysis.figures.style import save_figure

    return [save_figure(draw_standings(found, name), folder / f"across_{name}.png") for name in found.summaries]


def searches_of(results: Sequence[StudyResults]) -> list[StudyResults]:
    """The studies with the runs of their searches alone."""
    from dmr.analysis.results.study_results import stage_of

    return [stage_of(one, SEARCH) for one in results]
