"""`dmr relocate`: tell a study where its stores and its data lie now."""

from __future__ import annotations

from pathlib import Path

import optuna

from dmr.analysis.results.record_names import key_filter
from dmr.analysis.store_uris import absolute_uri, missing_file
from dmr.files import write_text
from dmr.studies.errors import StudyError
from dmr.studies.storage.locations import StoreUris
from dmr.studies.storage.mlflow_store import check_database, follow_artifacts, open_client
from dmr.studies.storage.optuna_storage import open_optuna
from dmr.studies.storage.store_passwords import ask_for_password, first_line, mask_password
from dmr.studies.storage.study_folder import StudyFolder
from dmr.studies.storage.trained_data import check_same_data
from dmr.studies.study_file.plan import make_plan
from dmr.studies.yaml_io import to_yaml


def relocate(folder: StudyFolder, mlflow: str | None, optuna_url: str | None, data: Path | None) -> None:
    """Keep new addresses of a study's MLflow store, Optuna storage and data folder, each once it was found to be the
    study's own.

    Raises:
        StudyError: the study runs or is a copy, or what is there is not the study's; then nothing is kept.
    """
    document = folder.document()
    folder.check_original()
    uris = folder.store_uris()
    with folder.held():
        if mlflow is not None:
            uris = StoreUris(absolute_uri(mlflow), uris.optuna_url)
            _check_mlflow(folder, uris.tracking_uri)
        if optuna_url is not None:
            uris = StoreUris(uris.tracking_uri, absolute_uri(optuna_url))
            _check_optuna(folder, uris.optuna_url)
        if data is not None:
            if "path" not in document["dataset"]:
                raise StudyError(f"--data {data}: the data of study {folder.name!r} do not lie in a folder")
            document["dataset"]["path"] = str(data)
            plan = make_plan(document, f"--data {data}")
            check_same_data(folder, plan.data_digests, plan.data_source)
            document = plan.document
        follow_artifacts(uris.tracking_uri, folder.tracking_uri_before())
        write_text(folder.study_file, to_yaml(document))
        folder.keep(folder.study_file)
        folder.remember(uris)


def _check_mlflow(folder: StudyFolder, uri: str) -> None:
    """Raises:
    StudyError: there is no such store, or it has no run of the study.
    """
    shown = mask_password(uri)
    if missing_file(uri):
        raise StudyError(f"--mlflow {shown}: there is no such file")
    check_database(uri)
    try:
        client = open_client(uri)
        experiments = [one.experiment_id for one in client.search_experiments()]
        found = folder.study_key and client.search_runs(experiments, key_filter(folder.study_key), max_results=1)
    except Exception as error:  # MLflow passes on whatever its store and HTTP libraries raise
        line = ask_for_password(first_line(error), "MLFLOW_TRACKING_URI")
        raise StudyError(f"--mlflow {shown}: cannot be used: {line}") from None
    if not found:
        raise StudyError(f"--mlflow {shown}: has no run of study {folder.name!r}")


def _check_optuna(folder: StudyFolder, url: str) -> None:
    """Raises:
    StudyError: there is no such storage, or it does not have the study.
    """
    shown = mask_password(url)
    if missing_file(url):
        raise StudyError(f"--optuna {shown}: there is no such file")
    try:
        optuna.load_study(study_name=folder.name, storage=open_optuna(url))
    except KeyError:
        raise StudyError(f"--optuna {shown}: has no study {folder.name!r}") from None
