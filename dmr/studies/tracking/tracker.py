"""The single writer to MLflow: everything goes to a local journal first and is shipped in batches by one thread.

Nothing here raises into the caller or blocks it. What could not be shipped stays in the journal and is shipped exactly
once later, by this process or by the next one that opens the journal: MLflow drops a metric row whose key, timestamp,
step and value it already has and an input it already has, and a run or a model is found again by its tag before one is
created a second time. A store that has lost the runs gets them from the journal once more. What it refuses for good is
left out and remembered.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dmr.analysis.results.record_names import CONFIRM, SEARCH
from dmr.analysis.store_uris import sqlite_file
from dmr.files import write_text
from dmr.object_storage.writer import StoreWriter
from dmr.studies.storage.mlflow_store import open_client, open_mlflow
from dmr.studies.storage.store_passwords import first_line
from dmr.studies.tracking.journal import Journal, Record
from dmr.studies.tracking.shipment import Shipment, StoreIds

log = logging.getLogger("dmr")

MAX_PARAM = 6_000  # letters of a parameter that MLflow takes
SHIP_EVERY = 0.5
RETRY_AFTER, RETRY_AT_MOST = 0.5, 10.0

NOT_THERE = "RESOURCE_DOES_NOT_EXIST"
PARENT = "study"  # the key of the study's own run


class Tracker:
    """Records what happens to runs, which are known by keys such as `study` and `search/7`, and ships it to MLflow.

    Attributes:
        error: why MLflow, or the journal, cannot be told something now.
        outdated: the stages whose heatmap, report and note name runs that the store has lost since.
    """

    def __init__(self, journal: Path, tracking_uri: str, experiment_id: str, writer: StoreWriter | None = None) -> None:
        self.journal = Journal(journal, writer)
        self.error: str | None = None
        self.journal_failed = False
        self._uri, self.experiment_id = tracking_uri, experiment_id
        self._experiment: str | None = None  # its name, once the store was looked at
        self._store_file = _file_state(tracking_uri)
        self._offset_file = journal.with_suffix(".shipped")
        self._groups: set[tuple[str, int, str]] = set()
        self._inputs: set[tuple[str, str]] = set()
        self._ids = StoreIds()
        self._modelled: set[str] = set()
        self._params: dict[str, dict[str, str]] = {}  # of runs that have been begun
        self.outdated: set[str] = set()
        self._seen: dict[str, int] = {}  # when a run that goes on was heard of last
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._notes: dict[str, None] = {}
        for record in self.journal.read_all():
            self._remember(record)
        self._seek()
        self._shipped = self._read_offset()
        self._wake, self._hurry, self._closing = threading.Event(), threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._work, name="mlflow-writer", daemon=True)
        self._thread.start()

    def start(
        self,
        key: str,
        *,
        name: str,
        tags: Mapping[str, str],
        params: Mapping[str, Any],
        parent: str | None = None,
    ) -> None:
        """Begin a run, or go on with it where it was begun before; its params are those that it began with."""
        self._append(
            {"op": "start", "key": key, "name": name, "tags": dict(tags), "parent": parent}
            | {"params": self._params.get(key, _texts(params))},
            durable=True,
        )

    def inputs(self, key: str, datasets: Sequence[Mapping[str, str]]) -> None:
        """The data sets a run reads: the fields of MLflow's Dataset, and `context`. Each context is recorded once, with
        the data that the run began with.
        """
        new = [dict(dataset) for dataset in datasets if (key, dataset["context"]) not in self._inputs]
        if new:
            self._append({"op": "input", "key": key, "datasets": new})

    def model(
        self,
        key: str,
        model: str,
        *,
        name: str,
        tags: Mapping[str, str],
        params: Mapping[str, Any],
        path: Path | None = None,
    ) -> None:
        """A model that a run made, known by the key `model`; recorded once. It has the files of the folder `path`;
        without one it only says what there is and where.
        """
        if model not in self._modelled:
            record = {"op": "model", "key": key, "model": model, "name": name, "tags": dict(tags)}
            record["params"] = _texts(params)
            if path is not None:
                self._upload(*sorted(file for file in path.rglob("*") if file.is_file()))
            self._append(record | ({"path": self._place(path)} if path is not None else {}))

    def metrics(self, key: str, values: Mapping[str, float], *, step: int, model: str | None = None) -> None:
        """Record values at a step, and that they are those of a `model` recorded before. The same values at the same
        step, told by the first name, are recorded once.
        """
        group = (key, step, next(iter(values)))
        if group in self._groups:
            return
        finite = {name: float(value) for name, value in values.items() if math.isfinite(value)}
        if len(finite) < len(values):
            finite["diverged"] = 1.0
        record = {"op": "metrics", "key": key, "step": step, "group": group[2], "values": finite}
        self._append(record | ({"model": model} if model is not None else {}))

    def tags(self, key: str, tags: Mapping[str, str]) -> None:
        self._append({"op": "tags", "key": key, "tags": dict(tags)})

    def artifact(self, key: str, path: Path, own: bool = True) -> None:
        """A local file, copied when it is shipped.

        Args:
            own: it goes to object storage from here, before this record; else somebody else takes it there.
        """
        if own:
            self._upload(path)
        self._append({"op": "artifact", "key": key, "path": self._place(path)})

    def end(self, key: str, status: str) -> None:
        """FINISHED, FAILED or KILLED."""
        self._append({"op": "end", "key": key, "status": status}, durable=True)

    def published(self, stage: str) -> None:
        """What people read of a stage was made: it is not `outdated`, until the store has lost the runs it names."""
        self._append({"op": "published", "stage": stage})

    def begun(self) -> set[str]:
        """The keys of the runs that were begun."""
        return set(self._params)

    def run_id(self, key: str) -> str | None:
        """The MLflow run's id, once it was created."""
        return self._ids.runs.get(key)

    def model_id(self, model: str | None) -> str | None:
        """The MLflow model's id, once it was created."""
        return None if model is None else self._ids.models.get(model)

    def history(self) -> Iterator[tuple[str, int, dict[str, float]]]:
        """All metrics recorded so far, in order: key, step, values."""
        for record in self.journal.read_all():
            if record["op"] == "metrics":
                yield record["key"], record["step"], record["values"]

    def seconds(self, key: str) -> float:
        """How long a run has run: without the time between a driver that died and the next one."""
        return self._seconds[key]

    def has_model(self, model: str) -> bool:
        """Whether it was recorded."""
        return model in self._modelled

    @property
    def refused(self) -> int:
        """What MLflow will never have."""
        return len(self._ids.refused)

    @property
    def notes(self) -> list[str]:
        """Lines for people: what MLflow refuses, and what else it did not keep or had to be told again."""
        return [*self._notes, *self._ids.refused.values()]

    @property
    def pending(self) -> int:
        """Bytes of the journal that are not in MLflow yet."""
        return self.journal.end - self._shipped

    def flush(self, timeout: float) -> bool:
        """Wait until all is in MLflow; False if nothing more has come there for so many seconds."""
        left, until = self.pending, time.monotonic() + timeout
        self._hurry.set()
        while self.pending and time.monotonic() < until and self._thread.is_alive():
            self._wake.set()
            time.sleep(0.02)
            if self.pending != left:
                left, until = self.pending, time.monotonic() + timeout
        self._hurry.clear()
        return not self.pending

    def close(self, timeout: float) -> bool:
        """Ship what can be shipped, stop; False if something stays in the journal."""
        done = self.flush(timeout)
        if not done and self.error is None:
            self.error = f"it takes longer than {timeout:.0f} s"
        self._closing.set()
        self._hurry.set()
        self._wake.set()
        self._thread.join(timeout=30.0)
        self._write_offset()
        self.journal.close()
        return done

    def _upload(self, *files: Path) -> None:
        """Where the journal is in object storage, what it names is there before it."""
        if self.journal.writer is not None:
            for file in files:
                self.journal.writer.upload(file)

    def _place(self, path: Path) -> str:
        """A path, from the journal's folder on where it is in that: it may be moved before the record is sent."""
        folder = self.journal.path.parent
        return str(path.relative_to(folder) if path.is_relative_to(folder) else path)

    def _append(self, record: Record, durable: bool = False) -> None:
        record["t"] = time.time_ns() // 1_000_000
        try:
            self.journal.append(record, durable)
        except OSError as error:
            self.journal_failed = True
            self.error = f"{self.journal.path}: {error.strerror or error}"
            return
        self._remember(record)
        self._wake.set()

    def _remember(self, record: Record) -> None:
        if record["op"] in ("start", "metrics", "end"):
            key, now = record["key"], record["t"]
            self._seconds[key] += 0.0 if record["op"] == "start" else (now - self._seen.get(key, now)) / 1_000
            self._seen[key] = now
        if record["op"] == "start":
            self._params.setdefault(record["key"], record["params"])
        elif record["op"] == "run":
            self._ids.runs[record["key"]] = record["id"]
        elif record["op"] == "metrics":
            self._groups.add((record["key"], record["step"], record["group"]))
        elif record["op"] == "input":
            self._inputs |= {(record["key"], dataset["context"]) for dataset in record["datasets"]}
        elif record["op"] == "model":
            self._modelled.add(record["model"])
            if "path" in record:
                self._ids.folders[record["path"]] = record["model"]
        elif record["op"] == "model_id":
            self._ids.models[record["key"]] = record["id"]
        elif record["op"] == "refused":
            self._ids.refused[record["name"]] = record["reason"]
        elif record["op"] == "store":
            self._ids.forget()
            self.outdated = {SEARCH, CONFIRM}
        elif record["op"] == "published":
            self.outdated.discard(record["stage"])

    def _seek(self) -> None:
        """What is not known to be in the store is looked for there before it is made."""
        self._ids.runs_may_exist = set(self._params) - set(self._ids.runs)
        self._ids.models_may_exist = set(self._modelled) - set(self._ids.models)

    def _note(self, text: str) -> None:
        if text not in self._notes:
            self._notes[text] = None
            log.info("%s", text)

    def _work(self) -> None:
        wait = RETRY_AFTER
        while not self._closing.is_set():
            self._wake.wait(None if self.journal.writer is None else SHIP_EVERY)  # its lines are sent once written
            self._wake.clear()
            while self._shipped < self.journal.durable_end and not self._closing.is_set():
                try:
                    self._ship()
                except Exception as error:  # whatever a store raises: the journal keeps it, and it is tried again
                    self.error = first_line(error)
                    log.info("MLflow: %s; trying again in %.1f s", self.error, wait)
                    self._closing.wait(wait)
                    wait = min(2 * wait, RETRY_AT_MOST)
                else:
                    self.error = None if not self.journal_failed else self.error
                    wait = RETRY_AFTER
            self._hurry.wait(SHIP_EVERY)

    def _ship(self) -> None:
        """Ship the next records; the offset moves only when all of them are in MLflow."""
        from mlflow.exceptions import MlflowException

        if self._store_file != _file_state(self._uri):
            raise OSError("the store's file was deleted or replaced")  # what is written now nobody could read
        client = open_client(self._uri)
        if self._experiment is None:
            self._experiment = str(client.get_experiment(self.experiment_id).name)
            if _has_lost(client, next(iter(self._ids.runs.values()), None)):
                self._ship_again()
        shipment = Shipment(client, self.experiment_id, self.journal, self._ids, self._append, self._note)
        after = self._shipped
        try:
            for record, after in self.journal.read(self._shipped, self.journal.durable_end):  # noqa: B007
                shipment.take(record)
            shipment.send_all()
        except MlflowException as error:
            if error.error_code != NOT_THERE or not _has_lost(client, self._ids.runs.get(shipment.key)):
                raise
            self._ship_again()
            return
        self._shipped = after
        self._write_offset()

    def _ship_again(self) -> None:
        """The store has lost runs: all of the journal goes there once more, and what is there still is found again."""
        self.experiment_id = open_mlflow(self._uri, str(self._experiment))
        write_text(self._offset_file, "0")
        self._shipped = 0
        self._append({"op": "store"}, durable=True)
        self._seek()
        self._note("MLflow's store had lost runs of this study: all of them are written again from its journal")

    def _read_offset(self) -> int:
        """All is sent again, which is harmless, where the journal is another one than when the offset was written."""
        try:
            offset = int(self._offset_file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return 0
        return offset if offset >= 0 and self.journal.starts_line(offset) else 0

    def _write_offset(self) -> None:
        try:
            write_text(self._offset_file, str(self._shipped))
        except OSError as error:
            log.info("%s: %s; records will be sent again, which is harmless", self._offset_file, error)


def _has_lost(client: Any, run_id: str | None) -> bool:
    """Whether the store does not know a run that it has made."""
    from mlflow.exceptions import MlflowException

    try:
        if run_id is not None:
            client.get_run(run_id)
    except MlflowException as error:
        if error.error_code != NOT_THERE:
            raise
        return True
    return False


def _file_state(uri: str) -> tuple[int, int] | None:
    """Which file a store is that is one, so that another one in its place is known."""
    path = sqlite_file(uri)
    if path is None or not path.exists():
        return None
    found = path.stat()
    return found.st_dev, found.st_ino


def _texts(params: Mapping[str, Any]) -> dict[str, str]:
    """Parameters as MLflow takes them."""
    return {name: str(value)[:MAX_PARAM] for name, value in params.items()}
