"""What the tests of `prepare` share: releases that are written once, and one to be broken."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dmr.data.prepare import open_release
from dmr.data.prepare.writer import Prepared, prepare

WriteRelease = Callable[[str, Path], Path]


@pytest.fixture(scope="session")
def releases(tmp_path_factory: pytest.TempPathFactory, write_release: WriteRelease) -> Callable[[str], Path]:
    """The folder of a release, for reading."""
    folder = tmp_path_factory.mktemp("releases")

    def get(name: str) -> Path:
        return folder / name if (folder / name).exists() else write_release(name, folder / name)

    return get


@pytest.fixture
def broken(releases: Callable[[str], Path], tmp_path: Path) -> Callable[[str], Path]:
    """A copy of a release, to be broken."""
    return lambda name: shutil.copytree(releases(name), tmp_path / name)


@pytest.fixture(scope="session")
def run() -> Callable[..., Prepared]:
    def run(name: str, source: Path, out: Path, *, skip_bad: bool = False, **options: Any) -> Prepared:
        """Prepare a release in this process."""
        release = open_release(name, source, **options)
        return prepare(release, out, workers=1, skip_bad=skip_bad, progress=lambda *_: None)

    return run
