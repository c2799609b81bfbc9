"""Where studies lie: the storage that a user names, and what it may be."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from dmr.analysis.store_uris import absolute_uri, sqlite_file, sqlite_uri
from dmr.files import user_path
from dmr.object_storage.store import SCHEMES, ObjectStore, clean_url, is_url
from dmr.studies.errors import StudyError

Storage = Path | str  # a folder, or the URL of one in object storage

DEFAULT_STORAGE = "dmr_runs"
URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")


@dataclass(frozen=True)
class StoreUris:
    """The stores a study resolved when it was first run, so that it goes on from any working directory."""

    tracking_uri: str
    optuna_url: str


def check_storage(given: Path) -> None:
    """Raises:
    StudyError: a URL of something else than object storage, or a relative path in a Ray job.
    """
    if URL.match(str(given)):
        url = re.sub(":/+", "://", str(given), count=1)
        raise StudyError(f"storage {url}: allowed are a folder and URLs that begin with {SCHEMES}")
    if in_ray_job() and not user_path(given).is_absolute():
        raise StudyError(
            f"storage {given}: a Ray job's working directory is a temporary copy: give --storage or DMR_STORAGE an "
            "absolute path"
        )


def in_ray_job() -> bool:
    """Whether this process was started by `ray job submit`, in a copy of somebody's working directory."""
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ


def default_tracking_uri() -> str:
    """MLflow's own default: a database in the working directory."""
    return sqlite_uri(Path.cwd() / "mlflow.db")


def resolve_storage(storage: Path | None) -> Storage:
    """`--storage`, else `DMR_STORAGE`, else `./dmr_runs`: a folder, or the URL of one in object storage.

    Raises:
        StudyError: it cannot be a directory, is a URL that cannot be used, or would go with a Ray job.
    """
    given = storage or Path(os.environ.get("DMR_STORAGE") or DEFAULT_STORAGE)
    if is_url(given):
        try:
            return ObjectStore(clean_url(given)).url
        except ValueError as error:
            raise StudyError(f"storage {error}") from None
    check_storage(given)
    try:
        resolved = given.expanduser().resolve()
    except (RuntimeError, OSError) as error:  # nobody of that name, or links that go round in circles
        raise StudyError(f"storage {given}: {error}") from None
    if resolved.exists() and not resolved.is_dir():
        raise StudyError(f"storage {given}: is no directory")
    return resolved


def resolve_store_uris(optuna_url: str) -> StoreUris:
    """Where a new study keeps its runs and trials: from the environment, else in this directory and its folder.

    Args:
        optuna_url: of the storage in its folder.

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
        absolute_uri(os.environ.get("DMR_OPTUNA_URL") or optuna_url),
    )
    for variable, uri in (("MLFLOW_TRACKING_URI", uris.tracking_uri), ("DMR_OPTUNA_URL", uris.optuna_url)):
        if uri.startswith("sqlite") and sqlite_file(uri) is None:
            raise StudyError(f"{variable}: got {uri}; a file is needed, as in sqlite:////{{absolute path}}/name.db")
    return uris
