"""The MLflow store that a study's runs are in, for commands that read them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from dmr.studies.errors import StudyError
from dmr.studies.storage.mlflow_store import TrackingError, check_database, fail_soon
from dmr.studies.storage.store_passwords import ask_for_password
from dmr.studies.storage.study_folder import StudyFolder


@contextmanager
def stored_runs(folder: StudyFolder) -> Iterator[str]:
    """The store's URI. What `analysis` says inside of a store that has no such study becomes one line.

    Raises:
        StudyError: within seconds, if the store cannot be read or has no such study.
    """
    fail_soon()
    uri = folder.store_uris().tracking_uri
    try:
        check_database(uri)
        yield uri
    except TrackingError as error:
        raise StudyError(str(error)) from None
    except LookupError as error:
        raise StudyError(ask_for_password(error.args[0], "MLFLOW_TRACKING_URI")) from None
