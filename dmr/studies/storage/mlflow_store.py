"""The MLflow store as such: open it, say in one line what is wrong with it, delete runs."""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from itertools import product
from pathlib import Path
from typing import Any

from dmr.analysis.results.record_names import Tag, deleted_experiment, deleted_run, key_filter
from dmr.analysis.store_uris import missing_file, sqlite_file
from dmr.studies.errors import StudyError
from dmr.studies.storage.databases import engine_settings, storage_error
from dmr.studies.storage.store_passwords import ask_for_password, first_line, mask_password

NOT_OFFERED = "ENDPOINT_NOT_FOUND"  # what an older server says to a call it does not know
KIND = {"mlflow.experimentKind": "custom_model_development"}  # else the UI shows pages for language models
MODELS_AT_ONCE = 50
ARTIFACT_PLACES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
CLIENT_SETTINGS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # with its password
}


def open_mlflow(tracking_uri: str, experiment: str, key: str | None = None) -> str:
    """Create the store and the experiment where they are missing; returns the experiment's id.

    Args:
        key: the tag `dmr.key` of the run that is gone on with, where it was begun before.

    Raises:
        StudyError: within about 15 s, if the store cannot be reached or written; or people have deleted the experiment
            or the run.
    """
    shown = mask_password(tracking_uri)
    scheme = tracking_uri.split(":", 1)[0] if ":" in tracking_uri else ""
    if scheme in ("", "file") or len(scheme) == 1:
        raise StudyError(
            f"MLflow store {shown}: MLflow no longer writes to folders; use sqlite:///{{path}}/mlflow.db or a server"
        )
    file = sqlite_file(tracking_uri)
    if file is not None:
        _check_sqlite(file, shown)
    check_database(tracking_uri)
    from mlflow.entities import ViewType

    try:
        with nullcontext() if file is None else _alone(file):
            if file is not None and file.stat().st_size == 0:
                _make_tables(file)
            client = open_client(tracking_uri)
            found = client.get_experiment_by_name(experiment)
            if found is None:
                return str(client.create_experiment(experiment, _artifact_location(file, experiment), tags=KIND))
            ids = [found.experiment_id]
            deleted = client.search_runs(ids, key_filter(key), ViewType.DELETED_ONLY, max_results=1) if key else []
    except Exception as error:  # MLflow passes on whatever its store and HTTP libraries raise
        line = ask_for_password(first_line(error), "MLFLOW_TRACKING_URI")
        raise StudyError(f"MLflow store {shown}: cannot be used: {line}") from None
    if found.lifecycle_stage != "active":
        raise StudyError(f"MLflow store {shown}: {deleted_experiment(experiment, found.experiment_id)}")
    if deleted:
        raise StudyError(f"MLflow store {shown}: {deleted_run(deleted[0].info.run_id)}")
    return str(found.experiment_id)


def no_such_store(tracking_uri: str, study: str) -> StudyError:
    """The file of a study's SQLite store is not where it was: what to do."""
    return StudyError(
        f"MLflow store {tracking_uri}: there is no such file; where it was moved, tell: dmr relocate {study} --mlflow "
        f"URI; where it is lost, `dmr resume {study}` writes the study's runs again"
    )


def follow_artifacts(tracking_uri: str, before: str) -> None:
    """MLflow keeps absolute places of artifacts: where those beside its SQLite database were moved together with it, it
    is told where they are now.

    Args:
        before: the store's URI when the study was last run.

    Raises:
        StudyError: the database cannot be written.
    """
    file, file_before = sqlite_file(tracking_uri), sqlite_file(before)
    if file is None or file_before is None or not file.exists():
        return
    old, new = file_before.parent / "mlruns", file.parent / "mlruns"
    if old == new or old.exists() or not new.is_dir():
        return
    try:
        with closing(sqlite3.connect(file, timeout=10.0)) as database, database:
            for (table, column), (was, now) in product(
                ARTIFACT_PLACES, ((str(old), str(new)), (old.as_uri(), new.as_uri()))
            ):
                database.execute(
                    f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE substr({column}, 1, ?) = ?",
                    (now, len(was) + 1, len(was) + 1, f"{was}/"),
                )
    except sqlite3.Error as error:
        raise StudyError(f"MLflow store {tracking_uri}: cannot be written: {error}") from None


def check_database(tracking_uri: str) -> None:
    """MLflow's own client tries a database server for 100 s.

    Raises:
        StudyError: the URI is one of a server, which does not answer or refuses the password.
    """
    if tracking_uri.startswith(("sqlite", "http:", "https:")):
        return
    from sqlalchemy import create_engine

    try:
        engine = create_engine(tracking_uri, **engine_settings(tracking_uri))
        engine.connect().close()
        engine.dispose()
    except Exception as error:  # SQLAlchemy passes on whatever a database driver raises
        line = ask_for_password(storage_error(error), "MLFLOW_TRACKING_URI")
        raise StudyError(f"MLflow store {mask_password(tracking_uri)}: cannot be used: {line}") from None


def _check_sqlite(path: Path, shown: str) -> None:
    if not path.parent.is_dir():
        raise StudyError(f"MLflow store {shown}: there is no directory {path.parent}")
    try:
        database = sqlite3.connect(path, timeout=10.0)
        try:
            database.execute("BEGIN IMMEDIATE")
            database.rollback()
        finally:
            database.close()
    except sqlite3.Error as error:
        raise StudyError(f"MLflow store {shown}: cannot be written: {error}") from None


def _artifact_location(file: Path | None, experiment: str) -> str | None:
    """None is MLflow's own, `mlruns` in the working directory, whose path it takes for a URI: `%2F` in it would be
    read as a slash.
    """
    here = Path.cwd()
    return (here / "mlruns" / experiment).as_uri() if file is not None and "%" in str(here) else None


@contextmanager
def _alone(file: Path) -> Iterator[None]:
    """Other drivers wait: MLflow's migration of a fresh SQLite store fails where two do it at once."""
    with open(file, "rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _make_tables(file: Path) -> None:
    """Make a new store in memory and write it at once: each of MLflow's migrations would wait for the disk."""
    from mlflow.store.tracking import DEFAULT_LOCAL_FILE_AND_ARTIFACT_PATH
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    store = SqlAlchemyStore("sqlite:///:memory:", DEFAULT_LOCAL_FILE_AND_ARTIFACT_PATH)
    with closing(store.engine.raw_connection()) as made, closing(sqlite3.connect(file)) as target:
        made.driver_connection.backup(target)


def fail_soon() -> None:
    """Let MLflow's client give up within seconds where a server does not answer; its default is minutes."""
    for name, value in CLIENT_SETTINGS.items():
        os.environ.setdefault(name, value)


def open_client(tracking_uri: str) -> Any:
    fail_soon()
    from mlflow.tracking import MlflowClient

    return MlflowClient(tracking_uri)


def delete_runs(tracking_uri: str, experiment: str, journal: str) -> None:
    """Mark every run and model that a journal wrote as deleted; a store that is gone has none. What the store raises is
    passed on.
    """
    from mlflow.exceptions import MlflowException

    if missing_file(tracking_uri):
        return
    client = open_client(tracking_uri)
    found = client.get_experiment_by_name(experiment)
    if found is None:
        return
    ids, wanted = [found.experiment_id], f"tags.`{Tag.KEY}` LIKE '{journal}/%'"
    while runs := client.search_runs(ids, wanted, max_results=1_000):
        for run in runs:
            client.delete_run(run.info.run_id)
    try:
        while models := client.search_logged_models(ids, wanted, max_results=MODELS_AT_ONCE):
            for model in models:
                client.delete_logged_model(model.model_id)
    except MlflowException as error:
        if error.error_code != NOT_OFFERED:
            raise
