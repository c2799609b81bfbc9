"""What people do with the files of a study, command by command: the right result or one true line, and nothing written
anywhere else.
"""

from __future__ import annotations

import importlib
import json
import logging
import multiprocessing
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from mlflow.tracking import MlflowClient
from typer.testing import CliRunner

from dmr.analysis.store_uris import sqlite_uri
from dmr.studies.cli.entry_point import app

READING = ("list", "status", "table", "evaluate", "export")
STATUS = "small: complete, 2 of 2 trials"
NO_STUDY = "no study 'small' here"


class Said(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def line(self) -> str:
        """The one line of a refusal."""
        assert self.code == 2, self
        assert len(self.err.splitlines()) == 1, self.err
        return self.err


@dataclass
class Project:
    """A directory with data, a finished study and its MLflow store, and the command `dmr` in it."""

    root: Path  # of everything here
    path: Path
    run_id: str
    name: str = "small"
    storage: Path | None = None  # `--storage`, else that of the working directory

    @property
    def folder(self) -> Path:
        return (self.storage or self.path / "dmr_runs") / self.name

    def dmr(self, command: str, *more: Any) -> Said:
        arguments = {
            "list": ["list"],
            "evaluate": ["evaluate", self.run_id, "--format", "csv"],
            "export": ["export", self.name, "-o", self.root / "exported"],
            "rm": ["rm", self.name, "--yes"],
            "run": ["run"],
        }.get(command, [command, self.name])
        where = [] if self.storage is None else ["--storage", self.storage]
        told = [str(one) for one in [*arguments, *where, *more]]
        said = in_a_process(partial(invoke, self.path if self.path.is_dir() else self.root, told))
        assert "Traceback" not in said.out + said.err
        shutil.rmtree(self.root / "exported", ignore_errors=True)
        return said

    def files(self) -> dict[str, tuple[int, int]]:
        """Every file with its size and time, but those of locks and of databases in use."""
        return {
            str(file.relative_to(self.root)): (file.stat().st_size, file.stat().st_mtime_ns)
            for file in self.root.rglob("*")
            if file.is_file() and not file.name.endswith(("-wal", "-shm", "-journal", "lock"))
        }

    def read(self, **expected: str) -> None:
        """Each reading command gives its result or, where one is expected, this in one line; none of them writes."""
        before = self.files()
        for command in READING:
            said, words = self.dmr(command), expected.get(command)
            if words is not None and command != "list":
                assert words in said.line, command
            else:
                assert said.code == 0, (command, said)
                assert (words or RESULTS[command]) in said.out if words != "" else said.out == "", (command, said)
            assert self.files() == before, command

    def resumed(self) -> Said:
        """`resume` finds a complete study; it writes nothing but into the study and its store."""
        before = self.files()
        said = self.dmr("resume")
        assert said.code == 0, said
        assert "study small is complete: 2 trials" in said.err
        own = (str(self.folder.relative_to(self.root)), f"{self.path.name}/mlflow.db", f"{self.path.name}/mlruns")
        assert [
            name for name in {**before, **self.files()} if self.changed(before, name) and not name.startswith(own)
        ] == []
        return said

    def changed(self, before: dict[str, tuple[int, int]], name: str) -> bool:
        return before.get(name) != self.files().get(name)

    def removed(self) -> None:
        """`rm` takes the study and its runs, and nothing else."""
        assert self.runs()
        assert self.dmr("rm") == Said(0, f"{self.name} is deleted\n", "")
        assert not self.folder.exists()
        assert self.runs() == []
        assert sorted(file.name for file in self.path.iterdir() if file.name != "dmr_runs") != []

    def runs(self) -> list[str]:
        """The active runs of the study's store."""
        return in_a_process(partial(run_ids, self.path / "mlflow.db"))


def invoke(directory: Path, arguments: list[str]) -> Said:
    os.chdir(directory)
    logging.getLogger().handlers.clear()  # the test runner's: warnings go to standard error
    done = CliRunner().invoke(app, arguments)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return Said(done.exit_code, done.stdout, done.stderr)


def run_ids(store: Path, stage: str = "%") -> list[str]:
    client = MlflowClient(sqlite_uri(store))
    experiments = [one.experiment_id for one in client.search_experiments()]
    return [run.info.run_id for run in client.search_runs(experiments, f"tags.stage LIKE '{stage}'")]


def in_a_process(function: Callable[[], Any]) -> Any:
    """What a function returns in a process of its own, as a command has one: MLflow keeps databases open and remembers
    where they were. Forked, so that nothing is imported again.
    """
    with multiprocessing.get_context("fork").Pool(1) as pool:
        return pool.apply(function)


RESULTS = {
    "list": STATUS,
    "status": STATUS,
    "table": "search,completed,dmrnet,0,val,accuracy,",
    "evaluate": "combination,",
    "export": "exported",
}


USED = (
    "mlflow.pyfunc",
    "mlflow.store.model_registry.sqlalchemy_store",
    "mlflow.store.tracking.sqlalchemy_store",
    "dmr.studies.driver.relocation",
    "dmr.studies.driver.run_study",
    "dmr.studies.reporting.report_file",
    "dmr.studies.reporting.stored_results",
    "dmr.studies.storage.study_status",
    "dmr.studies.trained_models.evaluate",
    "dmr.studies.trained_models.export",
)  # by the commands: imported once, not in each process


@pytest.fixture(scope="module")
def kept(make_workplace: Callable[[Path], Any], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, str]:
    """Where a study has run, a copy of all that is there, and the run of its first trial."""
    for module in USED:
        importlib.import_module(module)
    root = tmp_path_factory.mktemp("files") / "feature%2Fx y"  # a branch's workspace
    path = root / "project"
    path.mkdir(parents=True)
    place = make_workplace(path)
    data = (path / "sensors").resolve()
    (path / "sensors").unlink()
    shutil.copytree(data, path / "sensors")
    place.write(budget={"trials": 2}, train__epochs=2)
    place.environment["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))
    place.run("run", "small.yaml")
    run_id = in_a_process(partial(run_ids, path / "mlflow.db", "search"))[0]
    backup = tmp_path_factory.mktemp("backup") / "project"
    shutil.copytree(path, backup, symlinks=True)
    return path, backup, run_id


@pytest.fixture
def project(
    kept: tuple[Path, Path, str], monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> Project:
    """The project as it was when the study had ended, at the same place."""
    path, backup, run_id = kept
    monkeypatch.chdir(path.parent)
    for entry in path.parent.iterdir():
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    shutil.copytree(backup, path, symlinks=True)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache_of_moved_files"))
    return Project(path.parent, path, run_id)


@pytest.mark.parametrize("what", ["study", "storage", "project"])
def test_what_is_moved_goes_on_where_it_is(project: Project, what: str) -> None:
    if what == "project":
        project.path = project.path.rename(project.root / "elsewhere")
    elif what == "storage":
        project.storage = (project.path / "dmr_runs").rename(project.root / "runs")
    else:
        project.storage = project.root / "runs"
        project.storage.mkdir()
        project.folder.parent.mkdir(exist_ok=True)
        (project.path / "dmr_runs/small").rename(project.folder)
    project.read()
    if what == "project":
        assert (project.root / "project/mlruns").as_uri() in project.dmr("table", "--metrics", "all").line
    project.resumed()
    assert json.loads((project.folder / "places.json").read_text())["folder"] == str(project.folder)
    assert project.dmr("table", "--metrics", "all").out.count(",ece,") == 14
    project.removed()


@pytest.mark.parametrize("what", ["study", "storage", "project"])
def test_a_copy_can_be_read_but_not_go_on_and_its_removal_leaves_the_original(project: Project, what: str) -> None:
    original = project.folder
    if what == "project":
        project.path = Path(shutil.copytree(project.path, project.root / "copy"))
    elif what == "storage":
        project.storage = Path(shutil.copytree(project.path / "dmr_runs", project.root / "runs"))
    else:
        project.storage = project.root / "runs"
        shutil.copytree(original, project.folder)
    project.read()
    before = project.files()
    for command in ("resume", "confirm"):
        assert f"is a copy of the study in {original}" in project.dmr(command).line
    assert f"is a copy of the study in {original}" in project.dmr("run", project.path / "small.yaml").line
    assert project.files() == before
    said = project.dmr("rm")
    assert said.code == 0
    assert f"the runs in MLflow stay with {original}" in said.out
    assert not project.folder.exists()
    gone = str(project.folder.relative_to(project.root))
    assert project.files() == {name: state for name, state in before.items() if not name.startswith(gone)}


@pytest.mark.parametrize("what", ["study", "storage", "project"])
def test_what_is_deleted_is_said_to_be_no_study(project: Project, what: str) -> None:
    gone = {"study": project.folder, "storage": project.folder.parent, "project": project.path}[what]
    project.storage = project.folder.parent
    shutil.rmtree(gone)
    project.read(list="", status=NO_STUDY, table=NO_STUDY, evaluate="no study in", export="no study 'small' here")
    assert NO_STUDY in project.dmr("resume").line
    assert NO_STUDY in project.dmr("rm").line
    assert not gone.exists()


@pytest.mark.parametrize("copied", [True, False])
def test_a_folder_of_another_name_says_whose_it_is(project: Project, copied: bool) -> None:
    other = project.folder.with_name("other")
    shutil.copytree(project.folder, other) if copied else project.folder.rename(other)
    project.name = "other"
    words = f"{other}: is the folder of study 'small', copied or renamed"
    before = project.files()
    for command in ("status", "table", "export", "resume", "confirm"):
        assert words in project.dmr(command).line
    assert words in project.dmr("list").out
    assert (STATUS in project.dmr("list").out) is copied
    if copied:
        assert "combination," in project.dmr("evaluate").out
    else:
        assert words in project.dmr("evaluate").line
    assert project.files() == before
    said = project.dmr("rm")
    assert said.code == 0
    assert not other.exists()
    assert len(project.runs()) == (3 if copied else 0)


def test_a_storage_that_became_a_file(project: Project) -> None:
    shutil.rmtree(project.path / "dmr_runs")
    (project.path / "dmr_runs").write_text("")
    for command in (*READING, "resume", "rm"):
        assert "storage dmr_runs: is no directory" in project.dmr(command).line


def test_a_moved_project_whose_place_another_one_took(project: Project) -> None:
    moved = project.path.rename(project.root / "elsewhere")
    journal = project.folder / "journal.jsonl"
    journal.parent.mkdir(parents=True)
    journal.write_text(json.dumps({"op": "journal", "id": "another"}) + "\n")
    project.path = moved
    project.resumed()
    project.removed()


@pytest.mark.parametrize("how", ["moved", "deleted"])
def test_an_mlflow_store_that_is_gone_is_said_to_be_gone_and_written_again(project: Project, how: str) -> None:
    store = project.path / "mlflow.db"
    kept = store.rename(project.root / "kept.db") if how == "moved" else store.unlink()
    project.read(
        table=f"MLflow store {sqlite_uri(store)}: there is no such file; where it was moved, tell: dmr relocate"
    )
    if kept is not None:
        said = project.dmr("relocate", "--mlflow", sqlite_uri(kept))
        assert (said.code, said.out.splitlines()[0]) == (0, f"MLflow: {sqlite_uri(kept)}")
        project.read()
    else:
        project.resumed()
        assert len(project.runs()) == 3
        project.read()
        project.removed()


def test_a_study_whose_store_is_gone_can_be_removed(project: Project) -> None:
    store = project.path / "mlflow.db"
    store.unlink()
    said = project.dmr("rm")
    assert (said.code, said.out) == (0, f"small is deleted; its MLflow store {sqlite_uri(store)} is not there\n")
    assert not store.exists()


def test_an_mlflow_store_that_is_copied_is_left_alone(project: Project) -> None:
    shutil.copy(project.path / "mlflow.db", project.root / "copy.db")
    project.read()
    project.resumed()
    project.removed()


def test_an_mlflow_store_that_is_no_database_any_more(project: Project) -> None:
    (project.path / "mlflow.db").write_text("no database at all" * 100)
    project.read(table="cannot be read: ")
    for command in ("resume", "rm"):
        assert "file is not a database" in project.dmr(command).line
    assert project.folder.exists()


@pytest.mark.parametrize("how", ["moved", "deleted"])
def test_an_optuna_database_that_is_gone_is_never_shown_as_empty(project: Project, how: str) -> None:
    database = project.folder / "optuna.db"
    kept = database.rename(project.root / "kept.db") if how == "moved" else database.unlink()
    words = f"{database}: there is no such file; it has the trials of study 'small'"
    project.read(list=words, status=words, evaluate=words, export=words)
    assert words in project.dmr("resume").line
    assert not database.exists()
    if kept is not None:
        said = project.dmr("relocate", "--optuna", sqlite_uri(kept))
        assert (said.code, said.out.splitlines()[1]) == (0, f"Optuna: {sqlite_uri(kept)}")
        project.read()
        project.resumed()
    project.removed()


def test_an_optuna_database_that_is_copied_or_damaged(project: Project) -> None:
    database = project.folder / "optuna.db"
    shutil.copy(database, project.root / "copy.db")
    project.read()
    database.write_text("no database at all" * 100)
    words = "file is not a database"
    project.read(list=words, status=words, evaluate=words, export=words)
    assert words in project.dmr("resume").line
    project.removed()


@pytest.mark.parametrize("how", ["moved", "deleted"])
def test_data_that_are_gone_are_asked_for_where_they_are_needed(project: Project, how: str) -> None:
    data = project.path / "sensors"
    kept = data.rename(project.root / "signals") if how == "moved" else shutil.rmtree(data)
    words = f"{data / 'dataset.yaml'}: no such file"
    project.read(evaluate=words, export=words)
    assert words in project.dmr("resume").line
    if kept is not None:
        said = project.dmr("relocate", "--data", kept)
        assert (said.code, said.out.splitlines()[2]) == (0, f"data: {kept}")
        project.read()
        project.resumed()
    project.removed()


def test_data_that_are_copied_are_left_alone(project: Project) -> None:
    shutil.copytree(project.path / "sensors", project.root / "copy")
    project.read()
    project.resumed()


def permute(labels: Path) -> None:
    values = np.load(labels)
    np.save(labels, np.roll(values, 1))


def test_data_that_changed_are_other_data(project: Project) -> None:
    labels = project.path / "sensors/train/label.npy"
    permute(labels)
    for command in ("list", "status", "table"):
        assert RESULTS[command] in project.dmr(command).out
    before = project.files()
    for command in ("resume", "confirm", "relocate"):
        said = project.dmr(command, *(("--data", project.path / "sensors") if command == "relocate" else ()))
        assert said.code == 2
        assert f"{labels}: other values than when the study began" in said.err
        assert project.files() == before
    for command in ("evaluate", "export"):
        said = project.dmr(command)
        assert RESULTS[command] in said.out
        assert f"was trained with other data: {labels}" in said.err
    project.removed()


def test_a_study_file_that_was_edited_in_the_folder_does_not_go_on(project: Project) -> None:
    text = project.folder.joinpath("study.yaml").read_text()
    project.folder.joinpath("study.yaml").write_text(text.replace("epochs: 2", "epochs: 3"))
    project.read()
    before = project.files()
    said = project.dmr("resume")
    assert said.code == 2
    assert f"{project.folder}/study.yaml: train.epochs: was 2, is 3" in said.err
    assert project.files() == before
    project.folder.joinpath("study.yaml").write_text(text)
    project.resumed()


@pytest.mark.parametrize("how", ["moved", "deleted", "changed", "copied"])
def test_checkpoints(project: Project, how: str) -> None:
    for file in project.folder.glob("trials/*/best.pt"):
        if how == "changed":
            file.write_bytes(b"damaged")
        elif how == "copied":
            shutil.copy(file, file.with_name("copy.pt"))
        else:
            file.rename(file.with_name("old.pt")) if how == "moved" else file.unlink()
    if how == "copied":
        project.read()
    else:
        words = "best.pt: the checkpoint is damaged" if how == "changed" else "best.pt"
        project.read(evaluate=words, export=words)
    project.resumed()
    project.removed()


def test_nothing_is_relocated_to_what_is_not_the_studys(project: Project) -> None:
    other = project.root / "other.db"
    assert in_a_process(partial(run_ids, other)) == []
    before = project.files()
    assert "has no run of study 'small'" in project.dmr("relocate", "--mlflow", sqlite_uri(other)).line
    missing = sqlite_uri(project.root / "missing.db")
    assert "there is no such file" in project.dmr("relocate", "--mlflow", missing).line
    assert "there is no such file" in project.dmr("relocate", "--optuna", missing).line
    assert "no such file" in project.dmr("relocate", "--data", project.root).line
    assert "give --mlflow, --optuna or --data" in project.dmr("relocate").line
    assert project.files() == before
