"""URIs of stores: the file of a SQLite one, and passwords, which are shown to nobody, on no screen, log or page.

SQLAlchemy reads and writes the URIs, since a path may have letters that mean something in one, such as `%`.
"""

from __future__ import annotations

import re
from pathlib import Path

_SECRETS = (
    (re.compile(r"(https?://)[^\s/@:]+@"), r"\1***@"),  # the only name may be a token
    (re.compile(r"(https?://[^\s/@:]*:)[^\s/]*@"), r"\1***@"),
    (re.compile(r"((?<!http)(?<!https)://[^\s/@:]*:)\S*@"), r"\1***@"),  # a database's may hold a slash
    (re.compile(r"\b((?:ssl)?(?:password|passwd)=)[^\s&;'\"]+"), r"\1***"),
)


def without_password(text: str) -> str:
    """The text with `***` for the password of each URI in it."""
    for pattern, shown in _SECRETS:
        text = pattern.sub(shown, text)
    return text


def sqlite_uri(file: Path) -> str:
    """The URI of a SQLite database in this file."""
    from sqlalchemy import URL

    return URL.create("sqlite", database=str(file)).render_as_string(hide_password=False)


def sqlite_file(uri: str) -> Path | None:
    """The file of a SQLite database; None for any other store."""
    if not uri.startswith("sqlite"):
        return None
    from sqlalchemy import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        database = make_url(uri).database
    except ArgumentError:
        return None
    return Path(database) if database and not database.startswith((":memory:", "file:")) else None


def missing_file(uri: str) -> Path | None:
    """The file of a SQLite database that is not there; None of any other store. To open it would make it."""
    file = sqlite_file(uri)
    return None if file is None or file.exists() else file


def absolute_uri(uri: str) -> str:
    """The URI with an absolute path where it is a SQLite database in a file, so that it holds in any directory."""
    file = sqlite_file(uri)
    return uri if file is None or file.is_absolute() else sqlite_uri(file.absolute())
