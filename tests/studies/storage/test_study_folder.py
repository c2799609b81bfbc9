"""A study's folder is known by where it is now; what lay beside it is looked for beside it; a copy is told apart."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from dmr.analysis.store_uris import sqlite_uri
from dmr.studies.errors import StudyError
from dmr.studies.storage.locations import StoreUris, resolve_store_uris
from dmr.studies.storage.study_folder import FolderRenamed, StudyFolder


def make_study(storage: Path, name: str = "small", journal: str = "1f", data: str = "sensors") -> StudyFolder:
    """A project with data, an MLflow store and a study."""
    project = storage.parent
    folder = StudyFolder(storage, name)
    folder.path.mkdir(parents=True)
    (project / "sensors").mkdir(exist_ok=True)
    (project / "mlflow.db").touch()
    folder.study_file.write_text(yaml.safe_dump({"name": name, "dataset": {"path": str(project / data)}}))
    folder.journal.write_text(json.dumps({"op": "journal", "id": journal}) + "\n")
    folder.remember(StoreUris(sqlite_uri(project / "mlflow.db"), folder.optuna_url))
    return folder


@pytest.fixture
def project(tmp_path: Path) -> Path:
    make_study(tmp_path / "project/dmr_runs")
    return tmp_path / "project"


def assert_places(folder: StudyFolder, project: Path) -> None:
    """The study's database is in the folder, the rest in the project."""
    assert folder.store_uris() == StoreUris(sqlite_uri(project / "mlflow.db"), sqlite_uri(folder.path / "optuna.db"))
    assert folder.document()["dataset"]["path"] == str(project / "sensors")


def test_a_project_that_moves_takes_everything_along(project: Path) -> None:
    moved = project.rename(project.with_name("moved"))
    folder = StudyFolder(moved / "dmr_runs", "small")
    assert_places(folder, moved)
    assert folder.original() is None
    folder.study_file.write_text(yaml.safe_dump(folder.document()))  # as a driver does
    folder.remember(folder.store_uris())
    again = moved.rename(moved.with_name("again"))
    assert_places(StudyFolder(again / "dmr_runs", "small"), again)


def test_a_storage_that_moves_alone_leaves_the_rest_where_it_is(project: Path) -> None:
    storage = (project / "dmr_runs").rename(project.with_name("runs"))
    assert_places(StudyFolder(storage, "small"), project)


def test_a_storage_that_moves_beside_another_store_keeps_its_own(project: Path) -> None:
    other = project.with_name("other")
    other.mkdir()
    (other / "mlflow.db").touch()
    assert_places(StudyFolder((project / "dmr_runs").rename(other / "dmr_runs"), "small"), project)


def test_the_places_of_an_earlier_version_move_too(project: Path) -> None:
    folder = StudyFolder(project / "dmr_runs", "small")
    uris = {"tracking_uri": sqlite_uri(project / "mlflow.db"), "optuna_url": folder.optuna_url}
    folder.stores_file.write_text(json.dumps(uris))
    moved = project.rename(project.with_name("moved"))
    assert_places(StudyFolder(moved / "dmr_runs", "small"), moved)


def test_a_shared_database_stays_where_it_is(project: Path) -> None:
    folder = StudyFolder(project / "dmr_runs", "small")
    folder.remember(StoreUris("http://127.0.0.1:5000", "postgresql://host/db"))
    shutil.move(project, project.with_name("moved"))
    assert StudyFolder(project.with_name("moved") / "dmr_runs", "small").store_uris() == StoreUris(
        "http://127.0.0.1:5000", "postgresql://host/db"
    )


def test_a_copy_is_told_from_a_move_and_from_another_study(project: Path) -> None:
    original = StudyFolder(project / "dmr_runs", "small")
    copy = StudyFolder(Path(shutil.copytree(project / "dmr_runs", project / "copy")), "small")
    assert copy.original() == original.path
    with pytest.raises(
        StudyError, match=rf"^{copy.path}: is a copy of the study in {original.path}, .* `dmr run --name`"
    ):
        copy.check_original()
    original.check_original()
    original.journal.write_text(json.dumps({"op": "journal", "id": "2e"}) + "\n")
    assert copy.original() is None  # another study took the place of the original
    shutil.rmtree(original.path)
    copy.check_original()


def test_a_folder_seen_by_another_path_is_no_copy(project: Path) -> None:
    (project.parent / "link").symlink_to(project)
    by_link = StudyFolder(project.parent / "link/dmr_runs", "small")
    by_link.check_original()
    other = project.with_name("mounted")
    other.mkdir()
    if subprocess.run(["mount", "--bind", project, other], capture_output=True, check=False).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        StudyFolder(other / "dmr_runs", "small").check_original()
    finally:
        subprocess.run(["umount", "--lazy", other], check=True)


def test_a_folder_of_another_name_is_not_read_as_the_study_of_that_name(project: Path) -> None:
    other = (project / "dmr_runs/small").rename(project / "dmr_runs/other")
    folder = StudyFolder(project / "dmr_runs", "other")
    with pytest.raises(FolderRenamed, match=rf"^{other}: is the folder of study 'small', copied or renamed: name"):
        folder.document()
    assert folder.document_of_any_name()["name"] == "small"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "Expecting property name"),
        ("[]", "list indices"),
        ('{"tracking_uri": "http://host"}', "it has no 'optuna_url'"),
        ('{"tracking_uri": 5, "optuna_url": null}', "the addresses must be text"),
        (None, "No such file"),
    ],
)
def test_damaged_places_are_one_line(project: Path, content: str | None, reason: str) -> None:
    folder = StudyFolder(project / "dmr_runs", "small")
    folder.stores_file.unlink() if content is None else folder.stores_file.write_text(content)
    with pytest.raises(StudyError, match=rf"^{folder.stores_file}: cannot be read: {reason}"):
        folder.store_uris()
    assert folder.original() is None


def test_relative_addresses_are_those_of_the_directory_a_study_begins_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///rel.db")
    monkeypatch.setenv("DMR_OPTUNA_URL", "sqlite:///opt.db")
    uris = resolve_store_uris(StudyFolder(tmp_path / "runs", "small").optuna_url)
    assert uris == StoreUris(f"sqlite:///{tmp_path / 'rel.db'}", f"sqlite:///{tmp_path / 'opt.db'}")


def test_what_the_driver_of_the_original_runs_is_not_ended_through_a_copy(project: Path) -> None:
    process = subprocess.Popen(["sleep", "60"])
    try:
        original = StudyFolder(project / "dmr_runs", "small")
        original.lock.remember_processes()
        copy = StudyFolder(Path(shutil.copytree(project / "dmr_runs", project / "copy")), "small")
        copy.lock.end_leftovers()
        assert process.poll() is None
        original.lock.end_leftovers()
        assert process.wait(timeout=10) == -9
    finally:
        process.kill()
        process.wait()


def test_a_store_beside_a_directory_that_looks_like_a_uri(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("DMR_OPTUNA_URL", raising=False)
    folder = make_study(tmp_path / "feature%2Fx/dmr_runs")
    monkeypatch.chdir(tmp_path / "feature%2Fx")
    assert_places(folder, Path(os.getcwd()))
    assert resolve_store_uris(folder.optuna_url) == folder.store_uris()
