"""The commands that drive a study, and that look after those there are."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dmr.studies.cli.app import (
    AddressOption,
    NameArgument,
    NameOption,
    SameDataOption,
    SetOption,
    StorageOption,
    StudyFileArgument,
    TrialsOption,
    command,
    stderr_console,
)
from dmr.studies.errors import StudyError

if TYPE_CHECKING:
    from dmr.studies.storage.study_folder import StudyFolder
    from dmr.studies.study_file.plan import StudyPlan


@command("run", drives_study=True)
def run(
    study: StudyFileArgument,
    overrides: SetOption = None,
    trials: TrialsOption = None,
    name: NameOption = None,
    storage: StorageOption = None,
    address: AddressOption = None,
    same_data: SameDataOption = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check and show the study; start nothing.")] = False,
) -> int:
    """Run a study: search, a table and a heatmap, and `confirm` if the file says so. Run again, it goes on."""
    from dmr.studies.storage.locations import resolve_storage
    from dmr.studies.storage.study_folder import StudyFolder
    from dmr.studies.study_file.plan import load_plan
    from dmr.studies.study_file.ready_studies import find_study_file

    study = find_study_file(study)
    plan = load_plan(study, overrides or [], trials, name)
    folder = StudyFolder.open(resolve_storage(storage), plan.study.name)
    if dry_run:
        return _show_plan(plan, folder, _address(address))
    if folder.exists:
        plan = _in_its_experiment(plan, folder)
        _check_unchanged(plan, folder, str(study), same_data)
    return _run(plan, folder, _address(address), same_data)


@command("resume", drives_study=True)
def resume(
    name: NameArgument,
    trials: TrialsOption = None,
    storage: StorageOption = None,
    address: AddressOption = None,
    same_data: SameDataOption = False,
) -> int:
    """Go on with a study after any interruption, or raise its budget."""
    from dmr.studies.storage.locations import resolve_storage
    from dmr.studies.storage.study_folder import StudyFolder
    from dmr.studies.study_file.plan import make_plan, set_option

    folder = StudyFolder.open(resolve_storage(storage), name)
    document = folder.document()
    if trials is not None:
        set_option(document, "budget.trials", trials, "--trials")
    return _run(make_plan(document, folder.place_of(folder.study_file)), folder, _address(address), same_data)


@command("confirm", drives_study=True)
def confirm(
    name: NameArgument,
    top: Annotated[
        int | None, typer.Option(min=1, help="How many of the best configurations of each method to train again.")
    ] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="With how many new seeds to train each.")] = None,
    storage: StorageOption = None,
    address: AddressOption = None,
    same_data: SameDataOption = False,
) -> int:
    """Train the best configurations and the file's defaults again with fresh seeds, and evaluate them on test."""
    from dmr.studies.storage.locations import resolve_storage
    from dmr.studies.storage.optuna_storage import load_search
    from dmr.studies.storage.study_folder import StudyFolder
    from dmr.studies.storage.study_status import search_ended
    from dmr.studies.study_file.plan import make_plan

    folder = StudyFolder.open(resolve_storage(storage), name)
    document = folder.document()
    given = {key: value for key, value in (("top", top), ("seeds", seeds)) if value is not None}
    document |= {"confirm": (document.get("confirm") or {}) | given}
    plan = make_plan(document, folder.place_of(folder.study_file))
    if folder.driver() is None and not search_ended(document, load_search(folder)):
        raise StudyError(f"{name}: the search is not complete; go on with: dmr resume {name}")
    return _run(plan, folder, _address(address), same_data)


@command("train")
def train(
    study: StudyFileArgument,
    overrides: SetOption = None,
    name: NameOption = None,
    storage: StorageOption = None,
    same_data: SameDataOption = False,
) -> int:
    """One training run with the file's defaults, in this process, without a search."""
    from dmr.studies.driver.train_once import train_once
    from dmr.studies.storage.locations import resolve_storage
    from dmr.studies.study_file.plan import load_plan
    from dmr.studies.study_file.ready_studies import find_study_file

    plan = load_plan(find_study_file(study), ["search={}", "first=[]", *(overrides or [])], None, name)
    return train_once(plan, resolve_storage(storage), stderr_console(), same_data)


@command("studies")
def studies(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="Print this one's study file.")] = None,
) -> None:
    """The ready studies that come with DMR and what each is for, or the file of one, to begin from."""
    from dmr.studies.study_file.ready_studies import purpose, ready_studies, ready_study

    if name is not None:
        sys.stdout.write(ready_study(name).read_text(encoding="utf-8"))
        return
    ready = ready_studies()
    width = max(map(len, ready), default=0)
    for title, file in ready.items():
        typer.echo(f"{title:{width}}  {purpose(file)}")


@command("list")
def list_studies(storage: StorageOption = None) -> None:
    """The studies in the storage."""
    from dmr.studies.storage.locations import resolve_storage
    from dmr.studies.storage.study_status import list_lines

    for line in list_lines(resolve_storage(storage)):
        typer.echo(line)


@command("status")
def status(name: NameArgument, storage: StorageOption = None) -> None:
    """How far a study is, whether it runs, and its best trial."""
    from dmr.studies.storage.locations import resolve_storage
    from dmr.studies.storage.study_folder import StudyFolder
    from dmr.studies.storage.study_status import status_lines

    for line in status_lines(StudyFolder.open(resolve_storage(storage), name)):
        typer.echo(line)


@command("stop")
def stop(name: NameArgument, storage: StorageOption = None) -> None:
    """Stop a study that runs in another shell, so that `dmr resume` can go on with it."""
    from dmr.studies.storage.locations import resolve_storage
    from dmr.studies.storage.stop_and_remove import stop_study
    from dmr.studies.storage.study_folder import StudyFolder

    typer.echo(stop_study(StudyFolder.open(resolve_storage(storage), name)))


@command("rm")
def remove(
    name: NameArgument,
    yes: Annotated[bool, typer.Option("--yes", help="Delete without asking first.")] = False,
    storage: StorageOption = None,
) -> int:
    """Delete a study: its folder, Optuna's database and its runs in MLflow."""
    from dmr.studies.storage.locations import resolve_storage
    from dmr.studies.storage.stop_and_remove import remove_study
    from dmr.studies.storage.study_folder import StudyFolder

    folder = StudyFolder.open(resolve_storage(storage), name)
    folder.document_of_any_name()
    if not yes and not typer.confirm(f"delete study {name} in {folder.place} and its runs in MLflow?", err=True):
        return 1
    typer.echo(remove_study(folder))
    return 0


@command("relocate")
def relocate(
    name: NameArgument,
    mlflow: Annotated[str | None, typer.Option(metavar="URI", help="Where its MLflow store is now.")] = None,
    optuna: Annotated[str | None, typer.Option(metavar="URL", help="Where Optuna's storage is now.")] = None,
    data: Annotated[Path | None, typer.Option(metavar="DIR", help="Where its data folder is now.")] = None,
    storage: StorageOption = None,
) -> None:
    """Tell a study where its stores and its data lie now, after they were moved."""
    from dmr.studies.driver.relocation import relocate as keep
    from dmr.studies.storage.locations import resolve_storage
    from dmr.studies.storage.store_passwords import mask_password
    from dmr.studies.storage.study_folder import StudyFolder

    if mlflow is None and optuna is None and data is None:
        raise StudyError("dmr relocate: nothing to tell: give --mlflow, --optuna or --data")
    folder = StudyFolder.open(resolve_storage(storage), name)
    keep(folder, mlflow, optuna, data)
    uris = folder.store_uris()
    typer.echo(f"MLflow: {mask_password(uris.tracking_uri)}")
    typer.echo(f"Optuna: {mask_password(uris.optuna_url)}")
    if (path := folder.document()["dataset"].get("path")) is not None:
        typer.echo(f"data: {path}")


@command("ui")
def ui(port: Annotated[int, typer.Option(min=1, max=65535, help="Port on 127.0.0.1.")] = 5000) -> None:
    """The MLflow UI on this project's store, on 127.0.0.1."""
    from dmr.analysis.store_uris import missing_file
    from dmr.studies.storage.locations import default_tracking_uri

    uri = os.environ.get("MLFLOW_TRACKING_URI") or default_tracking_uri()
    if missing_file(uri):
        raise StudyError(f"{uri}: no MLflow store here; run a study in this directory first")
    if uri.startswith("http"):
        raise StudyError("MLFLOW_TRACKING_URI is a server: open it in a browser")
    address = f"http://127.0.0.1:{port}/#/experiments?workflowType=machine_learning"
    sys.stderr.write(f"MLflow UI: {address}  (Ctrl-C stops it)\n")
    os.environ.setdefault("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")  # else ten processes for GenAI jobs
    os.environ["MLFLOW_BACKEND_STORE_URI"] = uri  # on the command line everybody would see its password
    server = ["-m", "mlflow", "ui", "--host", "127.0.0.1", "--port", str(port)]
    os.execv(sys.executable, [sys.executable, *server])


def _address(address: str | None) -> str | None:
    return address or os.environ.get("RAY_ADDRESS") or None


def _in_its_experiment(plan: StudyPlan, folder: StudyFolder) -> StudyPlan:
    """A study stays in its experiment, which is named after a data folder that may have moved."""
    if plan.study.experiment is not None:
        return plan
    return replace(plan, document=plan.document | {"experiment": folder.document()["experiment"]})


def _check_unchanged(plan: StudyPlan, folder: StudyFolder, where: str, same_data: bool = False) -> None:
    """A study that exists may be run again with another budget or other resources, or with its data in another place,
    but not with other trials.

    Raises:
        StudyError: a line per changed key.
    """
    from dmr.studies.storage.trained_data import kept_digests
    from dmr.studies.study_file.changed_keys import changes_since, with_data_of

    known = same_data or kept_digests(folder) is not None
    before = with_data_of(folder.document(), plan.document) if known else folder.document()
    if changed := changes_since(before, plan):
        moved = any(line.startswith("dataset.path:") for line in changed)
        raise StudyError(
            *(f"{where}: {line}" for line in changed),
            f"{where}: study {plan.study.name!r} exists in {folder.place} with other settings: "
            "give this one another name (--name), or go on with `dmr resume`"
            f"{'; where only the data have moved, with --same-data' if moved else ''}",
        )


def _run(plan: StudyPlan, folder: StudyFolder, address: str | None, same_data: bool) -> int:
    from dmr.studies.cli.study_screens import show_summary
    from dmr.studies.driver.run_study import run_study

    return show_summary(plan, folder, run_study(plan, folder, address, same_data), stderr_console())


def _show_plan(plan: StudyPlan, folder: StudyFolder, address: str | None) -> int:
    from dmr.studies.cli.study_screens import show_plan

    show_plan(plan, folder, address)
    return 0
