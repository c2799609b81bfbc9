"""Records of the journal on their way to MLflow: found again where they may be there already, sent in batches."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from dmr.analysis.results.record_names import Tag, key_filter
from dmr.studies.storage.mlflow_store import NOT_OFFERED
from dmr.studies.storage.store_passwords import first_line
from dmr.studies.tracking.journal import Record
from dmr.studies.tracking.logged_models import ship_model

log = logging.getLogger("dmr")

MAX_METRICS, MAX_OTHERS = 1_000, 100  # of one call
NEVER_ACCEPTED = "INVALID_PARAMETER_VALUE"

T = TypeVar("T")


@dataclass
class StoreIds:
    """What MLflow calls our runs and models, by their keys; and those that it may have without our knowing."""

    runs: dict[str, str] = field(default_factory=dict)
    models: dict[str, str] = field(default_factory=dict)
    runs_may_exist: set[str] = field(default_factory=set)
    models_may_exist: set[str] = field(default_factory=set)


class Shipment:
    """Some records on their way: metrics and tags of a run are gathered until something else happens to the run."""

    def __init__(
        self,
        client: Any,
        experiment_id: str,
        journal_id: str,
        ids: StoreIds,
        append: Callable[..., None],
    ) -> None:
        """Args:
        client: MLflow's.
        append: writes a record to the journal, as `Tracker` does.
        """
        self.client, self.experiment_id, self.journal_id = client, experiment_id, journal_id
        self.ids, self.append = ids, append
        self.metrics: dict[str, list[Any]] = defaultdict(list)
        self.tags: dict[str, list[Any]] = defaultdict(list)

    def take(self, record: Record) -> None:
        from mlflow.entities import Metric, RunTag

        op, key = record["op"], record.get("key", "")
        if op == "metrics":
            model_id = self.ids.models.get(record.get("model", ""))
            values, at = record["values"].items(), (record["t"], record["step"], model_id)
            self.metrics[key] += [Metric(name, value, *at) for name, value in values]
        elif op == "tags":
            self.tags[key] += [RunTag(name, value) for name, value in record["tags"].items()]
        elif op in ("start", "input", "model", "artifact", "end"):
            self.send(key)
            getattr(self, f"_{op}")(key, record)

    def send_all(self) -> None:
        for key in {*self.metrics, *self.tags}:
            self.send(key)

    def send(self, key: str) -> None:
        """Send what is gathered for a run."""
        run_id = self.ids.runs.get(key)
        metrics, tags = self.metrics.pop(key, []), self.tags.pop(key, [])
        while metrics or tags:
            self._call(self.client.log_batch, run_id, metrics=metrics[:MAX_METRICS], tags=tags[:MAX_OTHERS])
            metrics, tags = metrics[MAX_METRICS:], tags[MAX_OTHERS:]

    def _start(self, key: str, record: Record) -> None:
        from mlflow.entities import Param

        run_id = self.ids.runs.get(key)
        if run_id is not None:
            self._call(self.client.update_run, run_id, status="RUNNING")
        else:
            run_id = self._create_run(record)
        params = [Param(name, value) for name, value in record["params"].items()]
        for start in range(0, len(params), MAX_OTHERS):
            self._call(self.client.log_batch, run_id, params=params[start : start + MAX_OTHERS])

    def _create_run(self, record: Record) -> str:
        """The run of a start record: found again where an earlier process may have created it, else created."""
        key = record["key"]
        tag = f"{self.journal_id}/{key}"
        run_id = self._find(tag) if key in self.ids.runs_may_exist else None
        if run_id is None:
            tags = record["tags"] | {Tag.KEY: tag, "mlflow.runName": record["name"]}
            if record["parent"] is not None:
                tags[Tag.PARENT] = self.ids.runs.get(record["parent"], "")
            self.ids.runs_may_exist.add(key)  # a server may have made it although the call fails
            run_id = str(
                self.client.create_run(
                    self.experiment_id, start_time=record["t"], tags=tags, run_name=record["name"]
                ).info.run_id
            )
        self.append({"op": "run", "key": key, "id": run_id}, durable=True)
        self.ids.runs[key] = run_id
        return run_id

    def _create_model(self, record: Record) -> None:
        """The model of a record, with its files, as an output of its run; found again where an earlier process may have
        begun it.
        """
        model = record["model"]
        if model not in self.ids.models:
            tag = f"{self.journal_id}/{model}"
            may_exist = model in self.ids.models_may_exist
            self.ids.models_may_exist.add(model)  # a server may have made it although a call fails
            run_id = self.ids.runs[record["key"]]
            model_id = ship_model(self.client, self.experiment_id, run_id, record, tag, may_exist)
            self.append({"op": "model_id", "key": model, "id": model_id})

    def _find(self, tag: str) -> str | None:
        found = self.client.search_runs([self.experiment_id], key_filter(tag), max_results=1)
        return str(found[0].info.run_id) if found else None

    def _input(self, key: str, record: Record) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag
        from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT

        inputs = []
        for fields in record["datasets"]:
            own = {name: value for name, value in fields.items() if name != "context"}
            inputs.append(DatasetInput(Dataset(**own), [InputTag(MLFLOW_DATASET_CONTEXT, fields["context"])]))
        self._call(self.client.log_inputs, self.ids.runs.get(key), inputs, may_lack=True)

    def _model(self, key: str, record: Record) -> None:
        self._call(self._create_model, record, may_lack=True)

    def _artifact(self, key: str, record: Record) -> None:
        if not Path(record["path"]).is_file():
            log.info("%s is gone and was not logged to MLflow", record["path"])
            return
        self._call(self.client.log_artifact, self.ids.runs.get(key), record["path"])

    def _end(self, key: str, record: Record) -> None:
        self._call(self.client.set_terminated, self.ids.runs.get(key), status=record["status"], end_time=record["t"])

    def _call(self, function: Callable[..., T], *args: Any, may_lack: bool = False, **kwargs: Any) -> T | None:
        """Call MLflow; what it will never accept, or an older server `may_lack`, is left out with a line in the log."""
        from mlflow.exceptions import MlflowException

        try:
            return function(*args, **kwargs)
        except MlflowException as error:
            if error.error_code != NEVER_ACCEPTED and not (may_lack and error.error_code == NOT_OFFERED):
                raise
            log.warning("MLflow did not accept a record: %s", first_line(error))
            return None
