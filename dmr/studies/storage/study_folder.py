"""Where a study lies: its folder, the files in it, and the stores it has resolved."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from dmr.files import write_text
from dmr.studies.errors import StudyError
from dmr.studies.names import ALLOWED_NAME, NAME
from dmr.studies.storage.locations import in_ray_job
from dmr.studies.storage.store_passwords import mask_password, with_password
from dmr.studies.storage.study_lock import StudyLock
from dmr.studies.yaml_io import read_yaml

StageName = Literal["search", "confirm"]


@dataclass(frozen=True)
class StoreUris:
    """The stores a study resolved when it was first run, so that it goes on from any working directory."""

    tracking_uri: str
    optuna_url: str


class StudyFolder:
    """The files of one study below the storage."""

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
    def journal(self) -> Path:
        return self.path / "journal.jsonl"

    def run(self, stage: StageName, number: int) -> Path:
        """The checkpoints and small files of a trial of a stage."""
        return self.path / ("trials" if stage == "search" else stage) / f"{number:04d}"

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
        return f"sqlite:///{self.path / 'optuna.db'}"

    @property
    def log(self) -> Path:
        return self.path / "log.txt"

    @property
    def exists(self) -> bool:
        return self.study_file.exists()

    def document(self) -> dict[str, Any]:
        """The study as resolved.

        Raises:
            StudyError: there is no such study here.
        """
        if not self.exists:
            raise StudyError(f"{self.path}: no study {self.name!r} here; `dmr list` shows those there are")
        return read_yaml(self.study_file)

    @property
    def stores_file(self) -> Path:
        """Where the study's stores are."""
        return self.path / "places.json"

    def store_uris(self) -> StoreUris:
        """The stores, with the passwords that the environment has for them.

        Raises:
            StudyError: the file is damaged.
        """
        file = self.stores_file
        try:
            kept = StoreUris(**json.loads(file.read_text(encoding="utf-8")))
            return StoreUris(
                with_password(kept.tracking_uri, "MLFLOW_TRACKING_URI"),
                with_password(kept.optuna_url, "DMR_OPTUNA_URL"),
            )
        except (OSError, ValueError, TypeError) as error:
            raise StudyError(f"{file}: cannot be read: {error}") from None

    def remember(self, uris: StoreUris) -> None:
        """Passwords are not kept."""
        kept = {key: mask_password(uri) for key, uri in asdict(uris).items()}
        write_text(self.stores_file, json.dumps(kept, indent=1), mode=0o600)

    @property
    def study_key(self) -> str | None:
        """What the study's own run is found by in MLflow, None where no journal was begun."""
        ids = self.journals()
        return f"{ids[-1]}/study" if self.journal.exists() and ids else None

    def journals(self) -> list[str]:
        """The ids of the journals of this study's runs: those of `dmr train`, and last the search's."""
        ids = []
        for file in [*sorted(self.path.glob("*/journal.jsonl")), self.journal]:
            with suppress(OSError, ValueError, KeyError), open(file, encoding="utf-8") as lines:
                ids.append(str(json.loads(lines.readline())["id"]))
        return ids

    def seconds_run(self) -> float:
        """Seconds the study has run so far, summed over its drivers."""
        try:
            return float((self.path / "seconds").read_text())
        except (OSError, ValueError):
            return 0.0

    def remember_seconds(self, seconds: float) -> None:
        write_text(self.path / "seconds", f"{seconds:.1f}")

    @property
    def lock(self) -> StudyLock:
        return StudyLock(self.path)


def resolve_store_uris(folder: StudyFolder) -> StoreUris:
    """Where a new study keeps its runs and trials: from the environment, else in this directory and its folder.

    Raises:
        StudyError: a Ray job whose runs would be deleted with its working directory.
    """
    tracking_uri = os.environ.get("MLFLOW_TRACKING_URI")
    if not tracking_uri and in_ray_job():
        raise StudyError(
            "MLFLOW_TRACKING_URI: not set, and a Ray job's working directory is a temporary copy: name a server, or "
            "sqlite:////{absolute path}/mlflow.db"
        )
    tracking_uri = tracking_uri or f"sqlite:///{Path.cwd() / 'mlflow.db'}"
    return StoreUris(tracking_uri, os.environ.get("DMR_OPTUNA_URL") or folder.optuna_url)
