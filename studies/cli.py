"""`dmr`: the command line. Results go to standard output, everything for people's eyes to standard error.

Exit codes: 0 the budget is done and a trial succeeded; 1 the work failed or none succeeded; 2 bad input, before
anything is started; 130 Ctrl-C. Imports are inside the commands, so that `--help` costs nothing.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from studies.errors import StudyError

if TYPE_CHECKING:
    from rich.console import Console

    from analysis.results import StudyResults
    from studies.folder import StudyFolder
    from studies.plan import StudyPlan

app = typer.Typer(
    name="dmr",
    help="Studies of multimodal models that keep working when sensors fail.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

data = typer.Typer(name="data", help="Data sets: from an original release to arrays.", no_args_is_help=True)
app.add_typer(data)

StudyFileArgument = Annotated[Path, typer.Argument(metavar="STUDY.yaml", help="The study file.")]
NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="The study's name.")]
SetOption = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Replace a key of the file.")]
StorageOption = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Where studies lie; else DMR_STORAGE, else ./dmr_runs.")
]
AddressOption = Annotated[
    str | None, typer.Option(metavar="ADDR", help="A Ray cluster; else RAY_ADDRESS, else a local Ray.")
]
NameOption = Annotated[str | None, typer.Option(metavar="NAME", help="Replace the study's name.")]
TrialsOption = Annotated[int | None, typer.Option(metavar="N", help="Replace the budget of trials.")]


def command(name: str, to: typer.Typer = app) -> Callable[[Callable[..., int | None]], Callable[..., None]]:
    """Register a command that returns its exit code; a StudyError is shown as lines, with exit code 2."""

    def register(function: Callable[..., int | None]) -> Callable[..., None]:
        @to.command(name)
        @wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> None:
            try:
                if os.getcwd() not in sys.path:  # where a method or encoder of one's own is found, as `module:Class`
                    sys.path.append(os.getcwd())
                code = function(*args, **kwargs)
            except StudyError as error:
                for line in error.lines:
                    sys.stderr.write(line + "\n")
                raise typer.Exit(2) from None
            except OSError as error:  # a disk that is full or gone
                where = f"{error.filename}: " if error.filename else ""
                sys.stderr.write(f"{where}{error.strerror or error}\n")
                raise typer.Exit(1) from None
            raise typer.Exit(code or 0)

        return wrapper

    return register


@command("run")
def run(
    study: StudyFileArgument,
    overrides: SetOption = None,
    trials: TrialsOption = None,
    name: NameOption = None,
    storage: StorageOption = None,
    address: AddressOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check and show the study; start nothing.")] = False,
) -> int:
    """Run a study: search, a table and a heatmap, and `confirm` if the file says so. Run again, it goes on."""
    from studies.folder import StudyFolder, resolve_storage
    from studies.plan import load_plan

    plan = load_plan(study, overrides or [], trials, name)
    folder = StudyFolder(resolve_storage(storage), plan.study.name)
    if dry_run:
        return _show_plan(plan, folder, _address(address))
    if folder.exists:
        _check_unchanged(plan, folder, str(study))
    return _run(plan, folder, _address(address))


@command("resume")
def resume(
    name: NameArgument, trials: TrialsOption = None, storage: StorageOption = None, address: AddressOption = None
) -> int:
    """Go on with a study after any interruption, or raise its budget."""
    from studies.folder import StudyFolder, resolve_storage
    from studies.plan import make_plan
    from studies.points import set_key

    folder = StudyFolder(resolve_storage(storage), name)
    document = folder.document()
    if trials is not None:
        set_key(document, "budget.trials", trials, "--trials")
    return _run(make_plan(document, str(folder.study_file)), folder, _address(address))


@command("confirm")
def confirm(
    name: NameArgument,
    top: Annotated[int | None, typer.Option(min=1, help="The best so many configurations of each method.")] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="Train each with so many seeds.")] = None,
    storage: StorageOption = None,
    address: AddressOption = None,
) -> int:
    """Train the best configurations and the file's own values again with fresh seeds, and evaluate them on test."""
    from studies.folder import StudyFolder, resolve_storage
    from studies.plan import make_plan
    from studies.status import load_search, search_ended

    folder = StudyFolder(resolve_storage(storage), name)
    document = folder.document()
    given = {key: value for key, value in (("top", top), ("seeds", seeds)) if value is not None}
    plan = make_plan(document | {"confirm": (document.get("confirm") or {}) | given}, str(folder.study_file))
    if folder.driver() is None and not search_ended(document, load_search(folder)):
        raise StudyError(f"{name}: the search is not complete; go on with: dmr resume {name}")
    return _run(plan, folder, _address(address))


@command("train")
def train(
    study: StudyFileArgument, overrides: SetOption = None, name: NameOption = None, storage: StorageOption = None
) -> int:
    """One training run with the file's own values, in this process, without a search."""
    from studies.folder import resolve_storage
    from studies.plan import load_plan
    from studies.single import train_once

    plan = load_plan(study, ["search={}", "first=[]", *(overrides or [])], None, name)
    return train_once(plan, resolve_storage(storage), _people())


@command("list")
def list_studies(storage: StorageOption = None) -> None:
    """The studies in the storage."""
    from studies.folder import resolve_storage
    from studies.status import list_lines

    for line in list_lines(resolve_storage(storage)):
        typer.echo(line)


@command("status")
def status(name: NameArgument, storage: StorageOption = None) -> None:
    """How far a study is, whether it runs, and its best trial."""
    from studies.folder import StudyFolder, resolve_storage
    from studies.status import status_lines

    for line in status_lines(StudyFolder(resolve_storage(storage), name)):
        typer.echo(line)


@command("stop")
def stop(name: NameArgument, storage: StorageOption = None) -> None:
    """Stop a study that runs in another shell, so that `dmr resume` can go on with it."""
    from studies.control import stop_study
    from studies.folder import StudyFolder, resolve_storage

    typer.echo(stop_study(StudyFolder(resolve_storage(storage), name)))


@command("rm")
def remove(
    name: NameArgument,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    storage: StorageOption = None,
) -> int:
    """Delete a study: its folder, Optuna's database and its runs in MLflow."""
    from studies.control import remove_study
    from studies.folder import StudyFolder, resolve_storage

    folder = StudyFolder(resolve_storage(storage), name)
    folder.document()
    if not yes and not typer.confirm(f"delete study {name} in {folder.path} and its runs in MLflow?", err=True):
        return 1
    remove_study(folder)
    typer.echo(f"{name} is deleted")
    return 0


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


@command("prepare", data)
def prepare(
    name: Annotated[Literal["crema_d", "kinetics_sounds", "casia_surf", "nyuv2"], typer.Argument(metavar="SET")],
    source: Annotated[Path, typer.Option(metavar="DIR", help="Where the original release lies.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="The folder to write.")],
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave out samples that cannot be read.")] = False,
    workers: Annotated[int | None, typer.Option(min=1, metavar="N", help="Processes; else one a core.")] = None,
    split: Annotated[
        Literal["published", "actor"], typer.Option(help="For crema_d: no actor in two splits, or the published lists.")
    ] = "published",
) -> int:
    """Write crema_d, kinetics_sounds, casia_surf or nyuv2 as arrays. Run again, it goes on where it was interrupted."""
    from studies.data_preparation import prepare_set

    return prepare_set(name, source, out, split, workers, skip_bad, _people())


@command("ui")
def ui(port: Annotated[int, typer.Option(min=1, max=65535, help="Port on 127.0.0.1.")] = 5000) -> None:
    """The MLflow UI on this project's store, on 127.0.0.1."""
    uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{Path.cwd() / 'mlflow.db'}"
    if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).exists():
        raise StudyError(f"{uri}: no MLflow store here; run a study in this directory first")
    if uri.startswith("http"):
        raise StudyError("MLFLOW_TRACKING_URI is a server: open it in a browser")
    address = f"http://127.0.0.1:{port}/#/experiments?workflowType=machine_learning"
    sys.stderr.write(f"MLflow UI: {address}  (Ctrl-C stops it)\n")
    os.environ.setdefault("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")  # else ten processes for GenAI jobs
    os.environ["MLFLOW_BACKEND_STORE_URI"] = uri  # on the command line everybody would see its password
    server = ["-m", "mlflow", "ui", "--host", "127.0.0.1", "--port", str(port)]
    os.execv(sys.executable, [sys.executable, *server])


@command("check", data)
def check(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A data folder: dataset.yaml and arrays.")],
    output: Annotated[
        Literal["text", "json"], typer.Option("--format", help="A page for people, or all of it for machines.")
    ] = "text",
) -> int:
    """What is in a data folder, and all that is wrong with it; exit code 1 where something would spoil a study."""
    from studies.data_commands import check_data

    return check_data(folder, output)


def _address(address: str | None) -> str | None:
    return address or os.environ.get("RAY_ADDRESS") or None


def _people() -> Console:
    from rich.console import Console

    return Console(stderr=True, highlight=False)


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


def _check_unchanged(plan: StudyPlan, folder: StudyFolder, where: str) -> None:
    """A study that exists may be run again with another budget or other resources, but not with other trials.

    Raises:
        StudyError: a line a changed key.
    """
    from studies.changes import changed_keys
    from studies.plan import make_plan

    changed = changed_keys(folder.document(), plan.document)
    if changed:  # perhaps by keys that an earlier version did not have
        with suppress(StudyError):  # such as data that have moved: they are among the changes
            before = make_plan(folder.document(), str(folder.study_file)).document
            changed = changed_keys(before, plan.document)
    if changed:
        raise StudyError(
            *(f"{where}: {line}" for line in changed),
            f"{where}: study {plan.study.name!r} exists in {folder.path} with other settings: "
            "give this one another name (--name), or go on with `dmr resume`",
        )


def _run(plan: StudyPlan, folder: StudyFolder, address: str | None) -> int:
    from studies.launch import run_study
    from studies.summary import show_summary

    return show_summary(plan, folder, run_study(plan, folder, address), _people())


def _show_plan(plan: StudyPlan, folder: StudyFolder, address: str | None) -> int:
    from studies.summary import show_plan

    show_plan(plan, folder, address)
    return 0


def main() -> None:
    """The entry point of `dmr`."""
    try:
        app()
    except KeyboardInterrupt:
        raise SystemExit(130) from None
