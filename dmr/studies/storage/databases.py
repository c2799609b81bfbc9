"""What SQLAlchemy's databases have in common: how they are opened, and what their errors mean."""

from __future__ import annotations

import re
import sqlite3
from typing import Any

from sqlalchemy.exc import DBAPIError, DisconnectionError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from dmr.studies.storage.store_passwords import first_line

LIBPQ = re.compile(r"postgres(ql)?(\+psycopg2?)?://")


LIBPQ_SETTINGS = {"connect_timeout": 5, "tcp_user_timeout": 10_000}  # s, ms; else a host that is gone takes minutes


def engine_settings(url: str) -> dict[str, Any]:
    """SQLAlchemy's: a connection to a server is tried before it is used, since it may have died."""
    if url.startswith("sqlite"):
        return {}
    return {"pool_pre_ping": True} | ({"connect_args": LIBPQ_SETTINGS} if LIBPQ.match(url) else {})


def is_outage(error: BaseException) -> bool:
    """Whether a storage raised this because its server, or the network to it, has failed."""
    found = _cause(error)
    if isinstance(found, DisconnectionError | PoolTimeout):
        return True
    lost = isinstance(found, OperationalError | InterfaceError) or getattr(found, "connection_invalidated", False)
    return lost and not isinstance(getattr(found, "orig", None), sqlite3.Error)


def storage_error(error: BaseException) -> str:
    """One line: what the database said, where Optuna's own text hides it."""
    found = _cause(error)
    return first_line(found.orig if isinstance(found, DBAPIError) and found.orig is not None else found)


def _cause(error: BaseException) -> BaseException:
    """The error of SQLAlchemy's behind Optuna's."""
    return error.__cause__ if error.__cause__ is not None else error
