"""Where a study lies: its folder, the files in it, and the stores it has resolved."""

from __future__ import annotations

import json
import math
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from dmr.analysis.store_uris import absolute_uri, sqlite_file, sqlite_uri
from dmr.files import write_text
from dmr.object_storage.store import is_url
from dmr.studies.errors import StudyError
from dmr.studies.names import ALLOWED_NAME, NAME
from dmr.studies.storage.locations import default_tracking_uri, in_ray_job
from dmr.studies.storage.resolved_study import check_resolved
from dmr.studies.storage.store_passwords import mask_password, with_password
from dmr.studies.storage.study_lock import StudyLock
from dmr.studies.storage.trial_files import ERROR
from dmr.studies.yaml_io import read_yaml

StageName = Literal["search", "confirm"]
OPTUNA_FILE = "optuna.db"


@dataclass(frozen=True)
class StoreUris:
    """The stores a study resolved when it was first run, so that it goes on from any working directory."""

    tracking_uri: str
    optuna_url: str


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
    """

    def __init__(self, storage: Path, name: str) -> None:
        """Raises:
        StudyError: a name that could climb out of the storage.
        """
        if not NAME.fullmatch(name):
            raise StudyError(f"study name {name!r}: {ALLOWED_NAME}")
        self.name = name
        self.path = storage.resolve() / name

    @property
    def study_file(self) -> Path:
        return self.path / "study.yaml"

    @property
    def data_file(self) -> Path:
        """What the study trains on."""
        return self.path / "data.json"

    @property
    def journal(self) -> Path:
        return self.path / "journal.jsonl"

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
        return sqlite_uri(self.path / OPTUNA_FILE)

    @property
    def log(self) -> Path:
        return self.path / "log.txt"

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
            raise StudyError(f"{self.path}: no study {self.name!r} here; `dmr list` shows those there are")
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
                f"{self.path}: is the folder of study {name!r}, copied or renamed: name the folder {name!r} again, or "
                "delete it; a study of another name begins with `dmr run --name`"
            )

    @property
    def stores_file(self) -> Path:
        """Where the study's stores are."""
        return self.path / "places.json"

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
        places = _Places(mask_password(uris.tracking_uri), optuna_url, self.path)
        write_text(self.stores_file, json.dumps(places._asdict(), indent=1, default=str), mode=0o600)

    def original(self) -> Path | None:
        """The folder that this one is a copy of: it is where this one says it was, and has the same journal. None where
        there is none any more: then the study has moved.
        """
        place = self._place()
        if place is None or place == self.path or not place.is_dir() or place.samefile(self.path):
            return None
        return place if _journal_id(place / self.journal.name) == self.journal_id else None

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
            raise StudyError(f"{file}: cannot be read: {reason}") from None
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
        return _journal_id(self.journal)

    @property
    def study_key(self) -> str | None:
        """What the study's own run is found by in MLflow, None where no journal was begun."""
        return None if self.journal_id is None else f"{self.journal_id}/study"

    def journals(self) -> list[str]:
        """The ids of the journals of this study's runs: those of `dmr train`, and last the search's."""
        found = map(_journal_id, [*sorted(self.path.glob("*/journal.jsonl")), self.journal])
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

    @property
    def lock(self) -> StudyLock:
        return StudyLock(self.path)


def _journal_id(journal: Path) -> str | None:
    with suppress(OSError, ValueError, KeyError, TypeError), open(journal, encoding="utf-8") as lines:
        return str(json.loads(lines.readline())["id"])
    return None


def resolve_store_uris(folder: StudyFolder) -> StoreUris:
    """Where a new study keeps its runs and trials: from the environment, else in this directory and its folder.

    Raises:
        StudyError: a database in memory, or a Ray job whose runs would be deleted with its working directory.
    """
    tracking_uri = os.environ.get("MLFLOW_TRACKING_URI")
    if not tracking_uri and in_ray_job():
        raise StudyError(
            "MLFLOW_TRACKING_URI: not set, and a Ray job's working directory is a temporary copy: name a server, or "
            "sqlite:////{absolute path}/mlflow.db"
        )
    uris = StoreUris(
        absolute_uri(tracking_uri) if tracking_uri else default_tracking_uri(),
        absolute_uri(os.environ.get("DMR_OPTUNA_URL") or folder.optuna_url),
    )
    for variable, uri in (("MLFLOW_TRACKING_URI", uris.tracking_uri), ("DMR_OPTUNA_URL", uris.optuna_url)):
        if uri.startswith("sqlite") and sqlite_file(uri) is None:
            raise StudyError(f"{variable}: got {uri}; a file is needed, as in sqlite:////{{absolute path}}/name.db")
    return uris
