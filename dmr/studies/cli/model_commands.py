"""The commands that use what a study has trained."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from dmr.studies.cli.app import NameArgument, StorageOption, command, stderr_console
from dmr.studies.cli.deployment_option import DeploymentOption, parse_odds
from dmr.studies.errors import StudyError


@command("evaluate")
def evaluate(
    run_id: Annotated[str, typer.Argument(metavar="RUN_ID", help="The MLflow run of a trial or of `dmr train`.")],
    combinations: Annotated[
        str, typer.Option(metavar="all|A,B-C", help="All combinations, or these: names joined by commas.")
    ] = "all",
    split: Annotated[
        Literal["train", "val", "test"] | None,
        typer.Option(help="The split; default: val, or with --data the only one there."),
    ] = None,
    data: Annotated[Path | None, typer.Option(metavar="DIR", help="Another data folder with the same classes.")] = None,
    predictions: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A row per sample and combination: .csv, .parquet or .npz.")
    ] = None,
    output: Annotated[Literal["text", "csv", "json"], typer.Option("--format", help="The form of the table.")] = "text",
    deployment: DeploymentOption = None,
    storage: StorageOption = None,
) -> int:
    """Evaluate a run's chosen checkpoint: every metric of every combination, on standard output."""
    from dmr.studies.storage.locations import resolve_storage
    from dmr.studies.trained_models.evaluate import evaluate_run
    from dmr.studies.trained_models.find_run import find_run

    run = find_run(run_id, resolve_storage(storage))
    odds = parse_odds(deployment, run.plan.dataset.modality_names)
    return evaluate_run(run, combinations, split, data, predictions, output, odds)


@command("export")
def export(
    name: NameArgument,
    out: Annotated[Path, typer.Option("-o", "--output", metavar="DIR", help="The folder that is written.")],
    run_id: Annotated[
        str | None, typer.Option("--run", metavar="RUN_ID", help="This run; else the winner on val.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option("--register", metavar="MODEL_NAME", help="Also register it under this name in MLflow's registry."),
    ] = None,
    storage: StorageOption = None,
) -> None:
    """Write a trained network as an MLflow model that takes any combination of modalities."""
    from dmr.studies.storage.locations import resolve_storage
    from dmr.studies.storage.study_folder import StudyFolder
    from dmr.studies.trained_models.export import export_run, register
    from dmr.studies.trained_models.find_run import find_run, find_winner

    place = resolve_storage(storage)
    run = find_winner(StudyFolder.open(place, name)) if run_id is None else find_run(run_id, place)
    if run.plan.study.name != name:
        raise StudyError(f"--run {run_id}: a run of study {run.plan.study.name!r}, not of {name!r}")
    export_run(run, out)
    stderr_console().print(f"{run.label} (run {run.run_id})", markup=False, soft_wrap=True)
    typer.echo(out)
    if model is not None:
        version = register(run, out, model, run.folder.store_uris().tracking_uri)
        stderr_console().print(f"models:/{model}/{version}", markup=False, soft_wrap=True)
