"""`dmr stop` and `dmr rm`, from another shell than the one that runs the study."""

from __future__ import annotations

import os
import shutil
import signal
import time
from contextlib import suppress
from typing import Any

import optuna

from dmr.analysis.store_uris import missing_file
from dmr.studies.errors import StudyError
from dmr.studies.storage.mlflow_store import delete_runs
from dmr.studies.storage.optuna_attributes import CONFIRM
from dmr.studies.storage.optuna_storage import load_search, open_optuna
from dmr.studies.storage.resolved_study import check_resolved
from dmr.studies.storage.store_passwords import first_line
from dmr.studies.storage.study_folder import StudyFolder

STOP_SECONDS = 120.0


def stop_study(folder: StudyFolder) -> str:
    """Ask the driver to stop and wait until it has; returns what there is to say.

    Raises:
        StudyError: no such study, or its driver does not stop.
    """
    folder.document()
    driver = folder.driver()
    if driver is None:
        return f"{folder.name} is not running"
    if not driver.here:
        raise StudyError(f"{folder.name}: runs in {driver}; stop it there")
    try:
        os.kill(driver.process, signal.SIGTERM)
    except ProcessLookupError:
        pass  # it has just ended
    except PermissionError:
        raise StudyError(f"{folder.name}: {driver} belongs to somebody else") from None
    until = time.monotonic() + STOP_SECONDS
    while folder.driver() == driver:
        if time.monotonic() > until:
            raise StudyError(f"{folder.name}: {driver} was told to stop and still runs; see {folder.log}")
        time.sleep(0.2)
    return f"{folder.name} has stopped; go on with: dmr resume {folder.name}"


def remove_study(folder: StudyFolder) -> str:
    """Delete a study: its runs in MLflow (which keeps deleted runs until `mlflow gc`), Optuna's study, and its folder.
    Of a copy only the folder goes, since the runs belong to the original. Returns what there is to say.

    Raises:
        StudyError: it runs, its journal is lost, or a store cannot be reached; then nothing is deleted from the folder.
    """
    document = folder.document_of_any_name()
    if folder.objects is None and folder.path.is_symlink():
        raise StudyError(f"{folder.path}: is a symbolic link, to {folder.path.resolve()}; delete it by hand")
    check_resolved(document, folder.study_file)
    for run in folder.trained():
        if run.driver() is not None:
            raise StudyError(f"{run.place}: `dmr train` runs there")
    original, uri = folder.original(), folder.store_uris().tracking_uri
    if folder.study_key is None and load_search(folder).get_trials(deepcopy=False):
        journal = folder.place_of(folder.journal)
        raise StudyError(
            f"{journal}: is lost or damaged, and with it which runs in MLflow are this study's: put back a copy of it, "
            f"or delete them there, and {folder.place}, by hand"
        )
    with folder.held():
        if original is None:
            _delete_records(folder, document)
        shutil.rmtree(folder.path)
        if folder.objects is not None:
            folder.objects.remove()
    if original is not None:
        return f"{folder.path} is deleted; it was a copy, and the runs in MLflow stay with {original}"
    gone = f"; its MLflow store {uri} is not there" if missing_file(uri) else ""
    return f"{folder.name} is deleted{gone}"


def _delete_records(folder: StudyFolder, document: dict[str, Any]) -> None:
    """What MLflow and a shared database have of a study. A database file that is gone has nothing."""
    uris, name = folder.store_uris(), document["name"]
    try:
        for journal in folder.journals():
            delete_runs(uris.tracking_uri, document["experiment"], journal)
        if uris.optuna_url != folder.optuna_url and not missing_file(uris.optuna_url):
            for study in (f"{name}/{CONFIRM}", name):
                with suppress(KeyError):  # Optuna has no such study
                    optuna.delete_study(study_name=study, storage=open_optuna(uris.optuna_url))
    except Exception as error:  # MLflow and Optuna pass on whatever their stores raise
        raise StudyError(f"{folder.name}: its runs cannot be deleted: {first_line(error)}") from None
