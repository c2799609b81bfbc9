"""Passwords in the URIs of stores: hidden wherever a URI is shown or kept, and found again in the environment."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

SECRET_VARIABLES = (
    "DMR_OPTUNA_URL",
    "MLFLOW_TRACKING_URI",
    "MLFLOW_TRACKING_USERNAME",
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
    "PGPASSWORD",
)
_MASKED = re.compile(
    r"(?<=[?&])(?:ssl)?(?:password|passwd)=\*\*\*&|[?&](?:ssl)?(?:password|passwd)=\*\*\*(?!&)"
    r"|:\*\*\*(?=@)|(?<=//)\*\*\*@"
)
_NO_PASSWORD = re.compile(
    r"no password|authentication failed|Access denied|using password|\b401\b|not authenticated", re.I
)


def mask_password(text: str) -> str:
    """The text with `***` for the password of each URI in it."""
    from dmr.analysis.store_uris import without_password

    return without_password(text)


def with_password(masked: str, variable: str) -> str:
    """The URI that `mask_password` made this of: the one in the environment variable where it is the same but for its
    password, else one without a password, for which libpq and MLflow look in places of their own.
    """
    given = os.environ.get(variable, "")
    if mask_password(given) == mask_password(masked):
        return given
    return _MASKED.sub("", masked)


def first_line(error: BaseException) -> str:
    """The first line of an error's text, without passwords."""
    lines = mask_password(str(error)).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:300]


def ask_for_password(line: str, variable: str) -> str:
    """The line of an error; where a store refused the password, or had none, with what to set."""
    if not _NO_PASSWORD.search(line):
        return line
    return f"{line}; passwords are not stored: set {variable} to the URI with its password"


@contextmanager
def without_secrets() -> Iterator[None]:
    """Processes started here do not inherit the stores' passwords."""
    kept = {name: os.environ.pop(name) for name in SECRET_VARIABLES if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(kept)
