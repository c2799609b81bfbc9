"""The small files that runs left in MLflow: one that is gone or damaged is None, never an error."""

from __future__ import annotations

import io
import os
import tempfile
import zipfile
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dmr.analysis.results.record_names import SAMPLES

Samples = tuple[npt.NDArray[np.float32], tuple[str, ...]]


def stored_artifact(client: Any, run_id: str, name: str, uri: str | None = None) -> bytes | None:
    """The bytes of a run's artifact, None where the run has none of that name. A local store's file is read where it
    lies. What the store raises of one that is there is passed on.

    Args:
        client: an `MlflowClient`.
        uri: of the run's artifacts, where it is known: else MLflow is asked.
    """
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")  # else one per file
    from mlflow.artifacts import download_artifacts
    from mlflow.exceptions import MlflowException
    from mlflow.utils.uri import is_local_uri

    root = uri or client.get_run(run_id).info.artifact_uri
    with tempfile.TemporaryDirectory() if not is_local_uri(root) else nullcontext() as folder:
        try:
            file = download_artifacts(artifact_uri=f"{root}/{name}", dst_path=folder, tracking_uri=client.tracking_uri)
        except (MlflowException, OSError):
            if any(file.path == name for file in client.list_artifacts(run_id)):
                raise
            return None
        return Path(file).read_bytes()


def read_artifact(client: Any, run_id: str, name: str) -> bytes | None:
    """The bytes of a run's artifact, None where they cannot be had."""
    from mlflow.exceptions import MlflowException

    try:
        return stored_artifact(client, run_id, name)
    except (MlflowException, OSError):
        return None


def read_samples(client: Any, run_id: str) -> Samples | None:
    """Scores (C, N) of each test sample of a confirm run, higher is better, and the names of the C combinations; None
    where the file is gone or is not that. Nothing in it is unpickled.
    """
    content = read_artifact(client, run_id, SAMPLES)
    if content is None:
        return None
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            scores, names = np.asarray(file["scores"], dtype=np.float32), tuple(map(str, file["combinations"]))
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile):
        return None
    return (scores, names) if scores.ndim == 2 and len(scores) == len(names) else None


def samples_reader(tracking_uri: str) -> Callable[[str], Samples | None]:
    """`read_samples` of the runs of a store, by their ids."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri)
    return lambda run_id: read_samples(client, run_id)
