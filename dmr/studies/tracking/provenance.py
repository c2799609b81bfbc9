"""Who and what made a run: the user, the commit, the versions of packages."""

from __future__ import annotations

import getpass
import platform
import subprocess
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version

PACKAGES = ("torch", "ray", "optuna", "mlflow", "dmr-studies")


@cache
def user_name() -> str | None:
    """Who runs this, None where the system has no name for them."""
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):
        return None


@cache
def git_commit() -> str | None:
    """The commit checked out in the working directory, None where there is none."""
    try:
        found = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.decode("ascii").strip() if found.returncode == 0 else None


def versions() -> dict[str, str]:
    """Of Python and of the packages that decide what a run gives; one that is not installed as such is left out."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found
