"""Records of the journal on their way to MLflow: found again where they may be there already, sent in batches.

What MLflow refuses for good is left out alone: a batch is sent by halves until the record that it refuses is found.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from dmr.analysis.results.record_names import Tag, deleted_run, key_filter
from dmr.studies.storage.mlflow_store import NOT_OFFERED
from dmr.studies.storage.store_passwords import first_line
from dmr.studies.tracking.journal import Journal, Record
from dmr.studies.tracking.logged_models import ship_model

log = logging.getLogger("dmr")

MAX_METRICS, MAX_OTHERS = 900, 100  # of one call, which takes 1 000 of all kinds
REFUSED = "INVALID_PARAMETER_VALUE"
KINDS = {"Metric": "metric", "Param": "parameter", "RunTag": "tag", "DatasetInput": "input"}

T = TypeVar("T")


@dataclass
class StoreIds:
    """What MLflow calls our runs and models.

    Attributes:
        runs, models: their ids, by their keys.
        runs_may_exist, models_may_exist: the keys of those that it may have without our knowing.
        lost: the keys of runs by the ids that they had.
        refused: what it has refused for good, by name, with its reason.
        folders: the last model of each folder of files.
    """

    runs: dict[str, str] = field(default_factory=dict)
    models: dict[str, str] = field(default_factory=dict)
    runs_may_exist: set[str] = field(default_factory=set)
    models_may_exist: set[str] = field(default_factory=set)
    lost: dict[str, str] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    folders: dict[str, str] = field(default_factory=dict)

    def forget(self) -> None:
        """The store has lost what it had."""
        self.lost |= {run_id: key for key, run_id in self.runs.items()}
        self.runs.clear()
        self.models.clear()
        self.refused.clear()


class Shipment:
    """Some records on their way: metrics and tags of a run are gathered until something else happens to the run."""

    def __init__(
        self,
        client: Any,
        experiment_id: str,
        journal: Journal,
        ids: StoreIds,
        append: Callable[..., None],
        note: Callable[[str], None],
    ) -> None:
        """Args:
        client: MLflow's.
        append: writes a record to the journal, as `Tracker` does.
        note: tells people a line.
        """
        self.client, self.experiment_id = client, experiment_id
        self.journal, self.journal_id, self.folder = journal, journal.id, journal.path.parent
        self.ids, self.append, self.note = ids, append, note
        self.metrics: dict[str, list[Any]] = defaultdict(list)
        self.tags: dict[str, list[Any]] = defaultdict(list)
        self.key = ""  # of the run that is being told something

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
        metrics, tags = self.metrics.pop(key, []), self.tags.pop(key, [])
        if self.ids.refused:
            metrics = [metric for metric in metrics if _named(metric) not in self.ids.refused]
        while metrics or tags:
            self._deliver(key, partial(self._log_batch, key), [*metrics[:MAX_METRICS], *tags[:MAX_OTHERS]])
            metrics, tags = metrics[MAX_METRICS:], tags[MAX_OTHERS:]

    def _log_batch(self, key: str, entries: Sequence[Any]) -> None:
        from mlflow.entities import Metric, Param, RunTag

        kinds = {"metrics": Metric, "params": Param, "tags": RunTag}
        parts = {kind: [one for one in entries if isinstance(one, made)] for kind, made in kinds.items()}
        self.client.log_batch(self.ids.runs.get(key), **parts)

    def _start(self, key: str, record: Record) -> None:
        from mlflow.entities import Param

        self.key = key
        run_id = self.ids.runs.get(key)
        if run_id is None:
            self._create_run(record)
        else:
            self._do(key, "status", partial(self.client.update_run, run_id, status="RUNNING"))
        params = [Param(name, value) for name, value in record["params"].items()]
        for start in range(0, len(params), MAX_OTHERS):
            self._deliver(key, partial(self._log_batch, key), params[start : start + MAX_OTHERS])

    def _create_run(self, record: Record) -> None:
        """The run of a start record: found again where an earlier process may have created it, else created."""
        key = record["key"]
        tag = f"{self.journal_id}/{key}"
        parent = {} if record["parent"] is None else {Tag.PARENT: self.ids.runs.get(record["parent"], "")}
        run_id = self._find(tag, parent) if key in self.ids.runs_may_exist else None
        if run_id is None:
            tags = record["tags"] | parent | {Tag.KEY: tag, "mlflow.runName": record["name"]}
            self.ids.runs_may_exist.add(key)  # a server may have made it although the call fails
            run_id = str(
                self.client.create_run(
                    self.experiment_id, start_time=record["t"], tags=tags, run_name=record["name"]
                ).info.run_id
            )
        self.append({"op": "run", "key": key, "id": run_id}, durable=True)
        self.ids.runs[key] = run_id

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
            if self.ids.folders.get(record.get("path", "")) != model:  # a later model's files are there now
                record = {name: value for name, value in record.items() if name != "path"}
            elif "path" in record:
                record = record | {"path": str(self._local(record["path"]))}
            tags = {n: self.ids.runs.get(self.ids.lost.get(value, ""), value) for n, value in record["tags"].items()}
            record = record | {"tags": tags}
            model_id = ship_model(self.client, self.experiment_id, run_id, record, tag, may_exist)
            self.append({"op": "model_id", "key": model, "id": model_id})

    def _find(self, tag: str, parent: dict[str, str]) -> str | None:
        """The run with this key, deleted or not; it becomes a child of the `parent` there is now."""
        from mlflow.entities import ViewType

        found = self.client.search_runs([self.experiment_id], key_filter(tag), ViewType.ALL, max_results=1)
        if not found:
            return None
        info, tags = found[0].info, found[0].data.tags
        for name, run_id in parent.items():
            if tags.get(name) != run_id and info.lifecycle_stage == "active":
                self.client.set_tag(info.run_id, name, run_id)
        return str(info.run_id)

    def _input(self, key: str, record: Record) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag
        from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT

        inputs = []
        for fields in record["datasets"]:
            own = {name: value for name, value in fields.items() if name != "context"}
            inputs.append(DatasetInput(Dataset(**own), [InputTag(MLFLOW_DATASET_CONTEXT, fields["context"])]))
        send = partial(self.client.log_inputs, self.ids.runs.get(key))
        self._deliver(key, lambda some: send(list(some)), inputs, may_lack=True)

    def _model(self, key: str, record: Record) -> None:
        self._do(key, f"model {record['model']}", partial(self._create_model, record), may_lack=True)

    def _local(self, path: str) -> Path:
        """A file or folder of the journal's, copied here from object storage where it is not here any more."""
        found = self.folder / path
        if self.journal.writer is not None and not found.exists():
            self.journal.writer.fetch(found)
        return found

    def _artifact(self, key: str, record: Record) -> None:
        file = self._local(record["path"])
        if not file.is_file():
            log.info("%s is gone and was not logged to MLflow", file)
            return
        artifact = partial(self.client.log_artifact, self.ids.runs.get(key), str(file))
        self._do(key, f"artifact {file.name}", artifact)

    def _end(self, key: str, record: Record) -> None:
        end = partial(self.client.set_terminated, self.ids.runs.get(key), status=record["status"], end_time=record["t"])
        self._do(key, "status", end)

    def _do(self, key: str, what: str, call: Callable[[], object], may_lack: bool = False) -> None:
        """Tell MLflow one thing that has no parts."""
        self._deliver(key, lambda _: call(), [what], may_lack)

    def _deliver(
        self, key: str, send: Callable[[Sequence[T]], object], parts: Sequence[T], may_lack: bool = False
    ) -> None:
        """Send what belongs to a run. What is refused is sent by halves until each refused part is alone; it is named
        to people and left out, as is what an older server `may_lack` a call for.
        """
        from mlflow.exceptions import MlflowException

        self.key = key
        try:
            send(parts)
        except MlflowException as error:
            if may_lack and error.error_code == NOT_OFFERED:
                self.note(f"MLflow's server is an older one and takes no {_kind(parts[0])}")
            elif error.error_code != REFUSED:
                raise
            elif self._is_deleted(key):
                return
            elif len(parts) > 1:
                middle = len(parts) // 2
                self._deliver(key, send, parts[:middle], may_lack)
                self._deliver(key, send, parts[middle:], may_lack)
            elif _named(parts[0]) not in self.ids.refused:
                reason = f"{key}: MLflow refuses its {_named(parts[0])[:200]}: {first_line(error)}"
                self.append({"op": "refused", "name": _named(parts[0]), "reason": reason})

    def _is_deleted(self, key: str) -> bool:
        """Whether people have deleted a trial's run in MLflow: then it is told nothing more.

        Raises:
            LookupError: it is the study's own: nothing is sent until that is restored.
        """
        study, run_id = next(iter(self.ids.runs.values())), self.ids.runs[key]
        for one in (study, run_id):
            if self.client.get_run(one).info.lifecycle_stage != "active":
                if one == study:
                    raise LookupError(deleted_run(study))
                self.note(f"{key}: {deleted_run(run_id, 'its run')}; it lacks what was recorded meanwhile")
                return True
        return False


def _kind(part: Any) -> str:
    """What people call a part of a run's record."""
    return part.partition(" ")[0] if isinstance(part, str) else KINDS[type(part).__name__]


def _named(part: Any) -> str:
    """`metric val/loss`, or another part of a run's record with its name."""
    if isinstance(part, str):
        return part
    return f"{_kind(part)} {part.dataset.name if hasattr(part, 'dataset') else part.key}"
