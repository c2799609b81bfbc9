"""Where studies lie: the storage that a user names, and what it may be."""

from __future__ import annotations

import os
import re
from pathlib import Path

from dmr.analysis.store_uris import sqlite_uri
from dmr.files import user_path
from dmr.studies.errors import StudyError

DEFAULT_STORAGE = "dmr_runs"
URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")


def check_storage(given: Path) -> None:
    """Raises:
    StudyError: a URL, or a relative path in a Ray job.
    """
    if URL.match(str(given)):
        url = re.sub(":/+", "://", str(given), count=1)
        raise StudyError(
            f"storage {url}: must be a folder, not a URL, since a study's lock and databases need a file system; on a "
            "cluster it is one that every node mounts, such as NFS, EFS or FSx for Lustre"
        )
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


def resolve_storage(storage: Path | None) -> Path:
    """`--storage`, else `DMR_STORAGE`, else `./dmr_runs`.

    Raises:
        StudyError: it cannot be a directory, or would go with a Ray job.
    """
    given = storage or Path(os.environ.get("DMR_STORAGE") or DEFAULT_STORAGE)
    check_storage(given)
    try:
        resolved = given.expanduser().resolve()
    except (RuntimeError, OSError) as error:  # nobody of that name, or links that go round in circles
        raise StudyError(f"storage {given}: {error}") from None
    if resolved.exists() and not resolved.is_dir():
        raise StudyError(f"storage {given}: is no directory")
    return resolved
