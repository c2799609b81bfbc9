"""Optuna's storage as such: a SQLite file in the study's folder, or a database server that may go away."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dmr.studies.errors import StudyError
from dmr.studies.storage.retry_queue import storage_problem
from dmr.studies.storage.store_passwords import ask_for_password, mask_password

if TYPE_CHECKING:
    from optuna.storages import BaseStorage

SQLITE = "sqlite:///"
LIBPQ = re.compile(r"postgres(ql)?(\+psycopg2?)?://")
LIBPQ_SETTINGS = {"connect_timeout": 5, "tcp_user_timeout": 10_000}  # s, ms; else a host that is gone takes minutes


def open_optuna(url: str) -> BaseStorage:
    """Optuna's storage. A SQLite file appears complete, so that another shell never reads a half-made one.

    Raises:
        StudyError: it cannot be used.
    """
    from optuna.storages import RDBStorage, get_storage

    file = Path(url.removeprefix(SQLITE))
    try:
        if url.startswith(SQLITE) and not file.exists():
            partial = file.with_suffix(".partial")
            partial.unlink(missing_ok=True)
            RDBStorage(f"{SQLITE}{partial}").engine.dispose()
            os.replace(partial, file)
        return get_storage(RDBStorage(url, engine_kwargs=engine_settings(url)))
    except Exception as error:  # whatever a database driver raises
        raise unusable(url, error) from None


def engine_settings(url: str) -> dict[str, Any]:
    """SQLAlchemy's: a connection to a server is tried before it is used, since it may have died."""
    if url.startswith("sqlite"):
        return {}
    return {"pool_pre_ping": True} | ({"connect_args": LIBPQ_SETTINGS} if LIBPQ.match(url) else {})


def unusable(url: str, error: BaseException) -> StudyError:
    """One line: which storage, what is wrong, what to do."""
    line = ask_for_password(storage_problem(error), "DMR_OPTUNA_URL")
    return StudyError(f"Optuna's storage {mask_password(url)}: cannot be used: {line}")
