"""A study's results and the MLflow store they are in, for commands that read them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

from dmr.analysis.store_uris import missing_file
from dmr.studies.errors import StudyError
from dmr.studies.storage.mlflow_store import check_database, fail_soon, no_such_store
from dmr.studies.storage.store_passwords import ask_for_password
from dmr.studies.storage.study_folder import StudyFolder

if TYPE_CHECKING:
    from dmr.analysis.results.study_results import StudyResults


@contextmanager
def stored_runs(folder: StudyFolder) -> Iterator[str]:
    """The store's URI. What `analysis` says inside of a store that has no such study becomes one line.

    Raises:
        StudyError: within seconds, if the store cannot be read or has no such study.
    """
    fail_soon()
    uri = folder.store_uris().tracking_uri
    if missing_file(uri):
        raise no_such_store(uri, folder.name)
    try:
        check_database(uri)
        yield uri
    except LookupError as error:
        raise StudyError(ask_for_password(error.args[0], "MLFLOW_TRACKING_URI")) from None


def load_results(folder: StudyFolder, stage: str | None, metrics: Literal["main", "all"] = "main") -> StudyResults:
    """The study of a folder, see `dmr.analysis.results.load_study.load_study`.

    Raises:
        StudyError: there is no such study, or its MLflow store cannot be read.
    """
    from dmr.analysis.results.load_study import load_study

    experiment = folder.checked_document()["experiment"]
    with stored_runs(folder) as uri:
        return load_study(uri, folder.name, experiment=experiment, key=folder.study_key, stage=stage, metrics=metrics)
