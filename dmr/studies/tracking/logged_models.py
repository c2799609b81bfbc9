"""MLflow's LoggedModels: one row per checkpoint, and the one model of a study that has its files there."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from dmr.analysis.results.record_names import Tag, key_filter
from dmr.studies.tracking.journal import Record

log = logging.getLogger("dmr")

FORBIDDEN = str.maketrans(dict.fromkeys("/:.%\"'", "-"))  # in a model's name


def ship_model(client: Any, experiment: str, run_id: str, record: Record, tag: str, may_exist: bool) -> str:
    """Make the model of a journal's record and return its id; what an earlier process did of this is not done again.

    Args:
        tag: the value of its tag `dmr.key`, by which it is found.
        may_exist: it may have been begun before.
    """
    from mlflow.entities import LoggedModelOutput, LoggedModelStatus

    model = _find(client, experiment, tag) if may_exist else None
    begun_before = model is not None
    if model is None:
        model = client.create_logged_model(
            experiment,
            name=record["name"].translate(FORBIDDEN),
            source_run_id=run_id,
            tags=record["tags"] | {Tag.KEY: tag},
            params=record["params"],
        )
    model_id = str(model.model_id)
    if not (begun_before and _is_output(client, run_id, model_id)):
        client.log_outputs(run_id, [LoggedModelOutput(model_id, 0)])
    if "path" in record:
        if Path(record["path"]).is_dir():
            client.log_model_artifacts(model_id, record["path"])
        else:
            log.info("%s is gone and was not logged to MLflow", record["path"])
    if model.status != LoggedModelStatus.READY:
        client.finalize_logged_model(model_id, LoggedModelStatus.READY)
    return model_id


def _find(client: Any, experiment: str, tag: str) -> Any:
    found = client.search_logged_models([experiment], key_filter(tag), max_results=1)
    return found[0] if found else None


def _is_output(client: Any, run_id: str, model_id: str) -> bool:
    outputs = client.get_run(run_id).outputs
    return outputs is not None and model_id in {output.model_id for output in outputs.model_outputs}
