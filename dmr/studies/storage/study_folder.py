"""Where a study lies: its folder, the files in it, and the stores it has resolved."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal, NamedTuple

from dmr.analysis.store_uris import sqlite_file, sqlite_uri
from dmr.files import write_text
from dmr.object_storage.store import Entry, is_url
from dmr.object_storage.writer import LOG, StoreWriter
from dmr.studies.errors import StudyError
from dmr.studies.names import ALLOWED_NAME, NAME
from dmr.studies.storage.locations import Storage, StoreUris
from dmr.studies.storage.resolved_study import check_resolved
from dmr.studies.storage.store_passwords import mask_password, with_password
from dmr.studies.storage.study_lock import Driver, StudyLock
from dmr.studies.storage.study_objects import (
    JOURNAL,
    LOG_FILE,
    STORES_FILE,
    STUDY_FILE,
    TRAINED,
    StudyObjects,
    journal_id,
)
from dmr.studies.storage.trial_files import BEST, ERROR, best_checkpoint, checkpoint_objects
from dmr.studies.yaml_io import read_yaml

StageName = Literal["search", "confirm"]
OPTUNA_FILE = "optuna.db"


class _Places(NamedTuple):
    """What `places.json` says.

    Attributes:
        optuna_url: None where the database is in the study's folder.
        folder: where that was when this was written; None by an earlier version that does not tell.
    """

    tracking_uri: str
    optuna_url: str | None
    folder: Path | None


class FolderRenamed(StudyError):
    """The folder has another name than the study in it."""


class StudyFolder:
    """The files of one study below the storage. It may be moved: what lies in it is known by where it is now, and what
    lay beside it is looked for beside it.

    Attributes:
        objects: where the storage is in object storage: `path` is this machine's copy of them then; else None.
    """

    def __init__(self, storage: Storage, name: str, listed: list[Entry] | None = None) -> None:
        """Args:
            listed: its objects, where they were just listed.

        Raises:
            StudyError: a name that could climb out of the storage.
        """
        if not NAME.fullmatch(name):
            raise StudyError(f"study name {name!r}: {ALLOWED_NAME}")
        self.name, self.storage = name, storage
        self.objects = StudyObjects(f"{storage}/{name}", listed) if is_url(storage) else None
        self.path = Path(storage).resolve() / name if self.objects is None else self.objects.folder

    def __reduce__(self) -> tuple[type[StudyFolder], tuple[Storage, str]]:
        return StudyFolder, (self.storage, self.name)  # each machine has a copy of its own

    @classmethod
    def open(cls, storage: Storage, name: str) -> StudyFolder:
        """The same, its records as they are now.

        Raises:
            StudyError: a name that could climb out of the storage, or the store cannot be read.
        """
        folder = cls(storage, name)
        folder.refresh()
        return folder

    def refresh(self) -> None:
        """Copy the records of the study to this machine, where it lies in object storage.

        Raises:
            StudyError: the store cannot be read, or the log is damaged.
        """
        if self.objects is not None:
            self.objects.pull()

    @property
    def place(self) -> str:
        """Where the study is, for people."""
        return str(self.path) if self.objects is None else self.objects.url

    def place_of(self, file: Path) -> str:
        """Where a file of the study is, for people."""
        inside = self.objects is not None and file.is_relative_to(self.path)
        return f"{self.place}/{file.relative_to(self.path).as_posix()}" if inside else str(file)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Drive the study: nobody else does meanwhile.

        Raises:
            StudyError: another driver holds it, or it cannot be written.
        """
        with self.lock.held() if self.objects is None else self.objects.held():
            yield

    def driver(self) -> Driver | None:
        """The process that drives the study now; None where none does."""
        return self.lock.driver() if self.objects is None else self.objects.driver()

    @property
    def writer(self) -> StoreWriter | None:
        """Writes to object storage what this process, which drives the study, keeps of it; None for a folder."""
        return None if self.objects is None else self.objects.writer

    def is_own_log(self, optuna_url: str) -> bool:
        """Whether Optuna's storage is the study's own log, as in object storage."""
        return self.objects is not None and optuna_url == self.optuna_url

    def keep(self, file: Path) -> None:
        """A file of the study was written here: it goes to object storage, where that is where the study lies.

        Raises:
            StudyError: this process does not drive the study, and the store cannot be written.
        """
        if self.writer is not None:
            self.writer.upload(file, after=file == self.study_file)  # with it the study is there for everybody
        elif self.objects is not None and file.is_relative_to(self.path):
            self.objects.upload(file)

    def checkpoint(self, run: Path, epochs: int) -> Path:
        """The chosen checkpoint of a run that came so far, copied here where it lies in object storage; it may not be
        there.

        Raises:
            StudyError: the store cannot be read.
        """
        if self.objects is None:
            return run / BEST
        best = best_checkpoint(checkpoint_objects(self.objects.keys_in(run)), epochs)
        if best is not None:
            self.objects.fetch(run / best.name)
        return run / (BEST if best is None else best.name)

    @property
    def study_file(self) -> Path:
        return self.path / STUDY_FILE

    @property
    def data_file(self) -> Path:
        """What the study trains on."""
        return self.path / "data.json"

    @property
    def journal(self) -> Path:
        return self.path / JOURNAL

    def run(self, stage: StageName, number: int) -> Path:
        """The checkpoints and small files of a trial of a stage."""
        return self.path / ("trials" if stage == "search" else stage) / f"{number:04d}"

    def first_error(self, stage: StageName) -> Path | None:
        """The traceback of the first trial of a stage that failed with one."""
        return min(self.run(stage, 0).parent.glob(f"*/{ERROR}"), default=None)

    def groups(self, stage: StageName) -> Path:
        """Ray Train's own files of the worker groups of a stage, while it runs."""
        return self.path / f"groups_{stage}"

    @property
    def winner(self) -> Path:
        """The best run as an MLflow model."""
        return self.path / "winner"

    @property
    def heatmap(self) -> Path:
        return self.path / "heatmap.png"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    @property
    def figures(self) -> Path:
        return self.path / "figures"

    @property
    def optuna_url(self) -> str:
        """Optuna's storage, unless it is elsewhere."""
        return sqlite_uri(self.path / OPTUNA_FILE) if self.objects is None else f"{self.objects.url}/{LOG}"

    @property
    def log(self) -> Path:
        return self.path / LOG_FILE

    @property
    def exists(self) -> bool:
        return self.study_file.exists()

    def document(self) -> dict[str, Any]:
        """The study as resolved, its data folder where it is now.

        Raises:
            StudyError: there is no such study here.
            FolderRenamed: the one that is here has another name.
        """
        document = self.document_of_any_name()
        self._check_name(document)
        return document

    def document_of_any_name(self) -> dict[str, Any]:
        """The same, also where the folder has another name than its study.

        Raises:
            StudyError: there is no study here.
        """
        if not self.exists:
            raise StudyError(f"{self.place}: no study {self.name!r} here; `dmr list` shows those there are")
        document = read_yaml(self.study_file)
        dataset = document.get("dataset")
        if isinstance(dataset, dict) and isinstance(path := dataset.get("path"), str) and not is_url(path):
            document["dataset"] = dataset | {"path": str(self._beside(Path(path), self._place()))}
        return document

    def checked_document(self) -> dict[str, Any]:
        """The study as resolved, with what every study has, whichever version resolved it.

        Raises:
            StudyError: there is no such study here, or its file was damaged by hand.
        """
        document = self.document_of_any_name()
        check_resolved(document, self.study_file)
        self._check_name(document)
        return document

    def _check_name(self, document: dict[str, Any]) -> None:
        """Raises:
        FolderRenamed: the study that is here has another name than the folder.
        """
        name = document.get("name", self.name)
        if name != self.name:
            raise FolderRenamed(
                f"{self.place}: is the folder of study {name!r}, copied or renamed: name the folder {name!r} again, or "
                "delete it; a study of another name begins with `dmr run --name`"
            )

    @property
    def stores_file(self) -> Path:
        """Where the study's stores are."""
        return self.path / STORES_FILE

    def store_uris(self) -> StoreUris:
        """The stores, with the passwords that the environment has for them.

        Raises:
            StudyError: the file is damaged.
        """
        kept = self._places()
        file = sqlite_file(kept.tracking_uri)
        moved = None if file is None else self._beside(file, kept.folder)
        tracking_uri = kept.tracking_uri if moved == file or moved is None else sqlite_uri(moved)
        return StoreUris(
            with_password(tracking_uri, "MLFLOW_TRACKING_URI"),
            self.optuna_url if kept.optuna_url is None else with_password(kept.optuna_url, "DMR_OPTUNA_URL"),
        )

    def tracking_uri_before(self) -> str:
        """Where MLflow's store was when the study was last run.

        Raises:
            StudyError: the file is damaged.
        """
        return self._places().tracking_uri

    def remember(self, uris: StoreUris) -> None:
        """Passwords are not kept."""
        optuna_url = None if uris.optuna_url == self.optuna_url else mask_password(uris.optuna_url)
        places = _Places(mask_password(uris.tracking_uri), optuna_url, self.path if self.objects is None else None)
        write_text(self.stores_file, json.dumps(places._asdict(), indent=1, default=str), mode=0o600)
        self.keep(self.stores_file)

    def original(self) -> Path | None:
        """The folder that this one is a copy of: it is where this one says it was, and has the same journal. None where
        there is none any more: then the study has moved.
        """
        place = self._place()
        if place is None or place == self.path or not place.is_dir() or place.samefile(self.path):
            return None
        return place if journal_id(place / self.journal.name) == self.journal_id else None

    def check_original(self) -> None:
        """Raises:
        StudyError: the study's runs in MLflow, and trials in a shared database, belong to the folder that this one is
            a copy of.
        """
        original = self.original()
        if original is not None:
            raise StudyError(
                f"{self.path}: is a copy of the study in {original}, and both would write to the same runs: go on "
                "there, or delete one of the two; a study with runs of its own begins with `dmr run --name`"
            )

    def _places(self) -> _Places:
        """Raises:
        StudyError: the file is damaged.
        """
        file = self.stores_file
        try:
            kept = json.loads(file.read_text(encoding="utf-8"))
            uri, url, folder = kept["tracking_uri"], kept["optuna_url"], kept.get("folder")
            if not isinstance(uri, str) or not isinstance(url, str | None) or not isinstance(folder, str | None):
                raise TypeError("the addresses must be text")
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            reason = f"it has no {error}" if isinstance(error, KeyError) else getattr(error, "strerror", None) or error
            raise StudyError(f"{self.place_of(file)}: cannot be read: {reason}") from None
        database = None if url is None else sqlite_file(url)
        if folder is None and database is not None and database.parts[-2:] == (self.name, OPTUNA_FILE):
            return _Places(uri, None, database.parent)  # an earlier version kept the database's absolute path
        return _Places(uri, url, None if folder is None else Path(folder))

    def _place(self) -> Path | None:
        """Where the study's folder was when it was last run."""
        with suppress(StudyError):
            return self._places().folder
        return None

    def _beside(self, path: Path, place: Path | None) -> Path:
        """Where something beside the study is now: if it is gone, at the same place seen from the folder, with which it
        may have been moved.
        """
        if place is None or place == self.path or path.exists():
            return path
        moved = Path(os.path.normpath(self.path / os.path.relpath(path, place)))
        return moved if moved.exists() else path

    @property
    def journal_id(self) -> str | None:
        """What the study's journal is known by; None where none was begun."""
        return journal_id(self.journal)

    @property
    def study_key(self) -> str | None:
        """What the study's own run is found by in MLflow, None where no journal was begun."""
        return None if self.journal_id is None else f"{self.journal_id}/study"

    def trained(self) -> list[StudyFolder]:
        """The folders of `dmr train` in this one.

        Raises:
            StudyError: the store cannot be read.
        """
        if self.objects is None:
            return [StudyFolder(self.path, path.name) for path in sorted(self.path.glob(f"{TRAINED}*/"))]
        names = {entry.key.partition("/")[0] for entry in self.objects.entries if entry.key.startswith(TRAINED)}
        return [StudyFolder.open(self.objects.url, name) for name in sorted(names)]

    def journals(self) -> list[str]:
        """The ids of the journals of this study's runs: those of `dmr train`, and last the search's."""
        found = [folder.journal_id for folder in (*self.trained(), self)]
        return [journal_id for journal_id in found if journal_id is not None]

    def seconds_run(self) -> float:
        """Seconds the study has run so far, summed over its drivers."""
        try:
            seconds = float((self.path / "seconds").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return 0.0
        return seconds if math.isfinite(seconds) else 0.0

    def remember_seconds(self, seconds: float) -> None:
        write_text(self.path / "seconds", f"{seconds:.1f}")
        self.keep(self.path / "seconds")

    @property
    def lock(self) -> StudyLock:
        return StudyLock(self.path)
