"""URIs of stores are the library's, whatever letters a path has, and hold in any directory."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import create_engine, make_url

from dmr.analysis.store_uris import absolute_uri, sqlite_file, sqlite_uri


@pytest.mark.parametrize("name", ["plain", "feature%2Fx", "a b", "c#d", "e?f=g", "mäßig", "h%", "i:j@k"])
def test_a_database_lies_where_its_uri_says_whatever_the_path(tmp_path: Path, name: str) -> None:
    file = tmp_path / name / "some.db"
    file.parent.mkdir()
    create_engine(sqlite_uri(file)).connect().close()
    assert [found for found in tmp_path.rglob("*") if found.is_file()] == [file]
    assert sqlite_file(sqlite_uri(file)) == file
    assert make_url(sqlite_uri(file)).database == str(file)


@pytest.mark.parametrize(
    "uri",
    ["http://host:5000", "postgresql://me@host/db", "sqlite://", "sqlite:///:memory:", "file:///a", "sqlite:x", ""],
)
def test_what_is_no_database_in_a_file(uri: str) -> None:
    assert sqlite_file(uri) is None
    assert absolute_uri(uri) == uri


def test_a_relative_database_is_one_of_this_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert sqlite_file("sqlite:///rel.db") == Path("rel.db")
    assert absolute_uri("sqlite:///rel.db") == f"sqlite:///{tmp_path / 'rel.db'}"
    assert absolute_uri("sqlite:////abs/x.db") == "sqlite:////abs/x.db"
