"""`dmr export`: the winner of a study, or a run, as an MLflow model in a folder and, where asked, in the registry."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from pathlib import Path

from dmr.studies.errors import StudyError
from dmr.studies.storage.mlflow_store import open_client
from dmr.studies.storage.store_passwords import first_line, mask_password
from dmr.studies.trained_models.export import save_model
from dmr.studies.trained_models.find_run import TrainedRun

ARTIFACT = "model"


def export_run(run: TrainedRun, out: Path) -> None:
    """Write the model, whole or not at all, into a folder that is empty or not there.

    Raises:
        StudyError: the folder is not empty, or the checkpoint cannot be used.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise StudyError(f"-o {out}: is there and not empty; name another folder")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    import mlflow.pyfunc  # noqa: F401  # sets the levels of its loggers

    logging.getLogger("mlflow").setLevel(logging.WARNING)
    out = out.resolve()
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}."))
    try:
        facts = {"study": run.plan.study.name, "stage": run.stage, "run": run.run_id}
        save_model(run.plan.dataset, run.settings, run.checkpoint, partial / ARTIFACT, facts)
        os.replace(partial / ARTIFACT, out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def register(run: TrainedRun, folder: Path, name: str, tracking_uri: str) -> str:
    """Keep an exported folder with its run in MLflow, as a new version of a registered model; returns the version.

    Raises:
        StudyError: the run is not in MLflow, or the store or its registry does not take it.
    """
    if run.run_id is None:
        raise StudyError(f"{run.label}: the run is not in MLflow yet; `dmr resume` sends what is missing")
    from mlflow.exceptions import MlflowException

    client = open_client(tracking_uri)
    try:
        client.log_artifacts(run.run_id, str(folder), ARTIFACT)
        try:
            client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        source = f"{client.get_run(run.run_id).info.artifact_uri}/{ARTIFACT}"
        return str(client.create_model_version(name, source, run.run_id).version)
    except Exception as error:  # MLflow passes on whatever its store and HTTP libraries raise
        raise StudyError(f"MLflow store {mask_password(tracking_uri)}: {first_line(error)}") from None
