"""An MLflow model of a trained network: a folder that needs nothing else, takes any modalities and has nothing pickled.

MLflow's `Array` columns refuse whole numbers and a cell that is missing in one row of several; the columns of the
signature are therefore of type `any`, and `dmr.serving` checks what comes.
"""

from __future__ import annotations

import logging
import os
import shutil
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

import dmr
from dmr.checkpoints import read_checkpoint
from dmr.data.dataset import MultimodalDataset
from dmr.encoders import encoder_name
from dmr.methods import method_name
from dmr.networks.network import Network
from dmr.serving import Served, served, write_network
from dmr.studies.errors import StudyError
from dmr.studies.storage.mlflow_store import open_client
from dmr.studies.storage.store_passwords import first_line, mask_password
from dmr.studies.trained_models.find_run import TrainedRun
from dmr.training import RunSettings

ARTIFACT = "model"
SCRIPT = Path(__file__).with_name("served_model.py")
NEEDED = ("mlflow", "torch", "numpy", "pandas")
EXAMPLE_VALUES = 50_000


def export_run(run: TrainedRun, out: Path) -> None:
    """Write the model, whole or not at all, into a folder that is empty or not there.

    Raises:
        StudyError: the folder is not empty, or the checkpoint cannot be used.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise StudyError(f"-o {out}: is there and not empty; name another folder")
    try:
        target = out.resolve()
        target.parent.mkdir(parents=True, exist_ok=True)
    except (RuntimeError, OSError) as error:  # a file on the way, or links that go round in circles
        raise StudyError(f"-o {out}: cannot be made: {getattr(error, 'strerror', None) or error}") from None
    run.warn_of_changed_data()  # class names, for one, are those that the data have now
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    import mlflow.pyfunc  # noqa: F401  # sets the levels of its loggers

    logging.getLogger("mlflow").setLevel(logging.WARNING)
    partial = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    try:
        facts = {"study": run.plan.study.name, "stage": run.stage, "run": run.run_id}
        save_model(run.plan.dataset, run.settings, run.checkpoint, partial / ARTIFACT, facts)
        os.replace(partial / ARTIFACT, target)
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


def save_model(
    dataset: MultimodalDataset,
    settings: RunSettings,
    checkpoint: Path,
    path: Path,
    metadata: dict[str, Any] | None = None,
) -> None:
    """Write the network of a checkpoint as an MLflow model into the folder `path`, which is not there yet.

    Args:
        dataset: what it was trained on; only its shapes and names are used.
        settings: those it was trained with.
        metadata: what else MLflow keeps of it.

    Raises:
        StudyError: the checkpoint cannot be used.
    """
    import mlflow
    from mlflow.models import ModelSignature

    whole = served(dataset, settings.design(dataset))
    state = network_state(checkpoint)
    try:
        Network.restored(whole.design, state)
    except RuntimeError as error:
        raise StudyError(f"{checkpoint}: {' '.join(str(error).split())[:300]}") from None
    description = whole.description()
    facts = {name: description[name] for name in ("class_names", "modalities", "method", "size")}
    with tempfile.TemporaryDirectory() as folder:
        science = copy_science(Path(folder))
        network = Path(folder) / "network"
        network.mkdir()
        write_network(network, whole, state)
        inputs, outputs = _schemas(whole)
        mlflow.pyfunc.save_model(
            path,
            python_model=str(SCRIPT),
            artifacts={"network": str(network)},
            code_paths=[str(science), *_own_code(settings)],
            signature=ModelSignature(inputs, outputs),
            input_example=_example(whole),
            pip_requirements=[f"{name}=={version(name).partition('+')[0]}" for name in NEEDED],
            metadata=facts | (metadata or {}),
        )


def network_state(checkpoint: Path) -> dict[str, Any]:
    """The weights in a checkpoint that was chosen.

    Raises:
        StudyError: there is none, or it is damaged.
    """
    if not checkpoint.exists():
        raise StudyError(f"{checkpoint}: no such file")
    try:
        return dict(read_checkpoint(checkpoint, torch.device("cpu"))["network"])
    except (ValueError, TypeError, KeyError):
        raise StudyError(f"{checkpoint}: the checkpoint is damaged") from None


def _schemas(whole: Served) -> tuple[Any, Any]:
    """What a model takes and what it gives."""
    from mlflow.types import ColSpec, DataType, Schema
    from mlflow.types.schema import AnyType, Array

    inputs = Schema([ColSpec(AnyType(), modality.name, required=False) for modality in whole.modalities])
    predicted: Any = DataType.long
    probabilities: Any = Array(DataType.double)
    if whole.design.size is not None:
        predicted, probabilities = Array(Array(predicted)), Array(Array(probabilities))
    named = [] if whole.design.size is not None else [ColSpec(DataType.string, "predicted_name")]
    outputs = [
        ColSpec(DataType.string, "combination"),
        ColSpec(predicted, "predicted_class"),
        *named,
        ColSpec(probabilities, "probabilities"),
        ColSpec(DataType.double, "variance", required=False),
    ]
    return inputs, Schema(outputs)


def _example(whole: Served) -> Any:
    """A row with every modality and one with the first alone, all zero; None where it would be long."""
    import pandas as pd

    zeros = {modality.name: np.zeros(modality.shape).tolist() for modality in whole.modalities}
    if sum(np.prod(modality.shape) for modality in whole.modalities) > EXAMPLE_VALUES:
        return None
    first = whole.modalities[0].name
    return pd.DataFrame([zeros, {name: value if name == first else None for name, value in zeros.items()}])


def copy_science(folder: Path) -> Path:
    """The code a model needs: `dmr` without the packages that read and run studies, copied into a folder."""
    left_out = shutil.ignore_patterns("analysis", "studies", "__pycache__")
    return Path(shutil.copytree(Path(dmr.__file__).parent, folder / "dmr", ignore=left_out))


def _own_code(settings: RunSettings) -> list[str]:
    """The files or packages of a user's own method and encoders."""
    names = [method_name(settings.method), *map(encoder_name, settings.encoders.values())]
    modules = {name.partition(":")[0].partition(".")[0] for name in names if ":" in name}
    files = []
    for name in sorted(modules - {"dmr"}):
        file = Path(str(sys.modules[name].__file__))
        files.append(str(file.parent if file.name == "__init__.py" else file))
    return files
