from __future__ import annotations

import stat
from pathlib import Path

import pytest

from dmr.files import user_path, whole_file, write_text


def test_a_text_is_there_whole_with_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "secret.txt"
    write_text(path, "first")
    write_text(path, "größer", mode=0o600)
    assert path.read_text(encoding="utf-8") == "größer"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_what_fails_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    write_text(path, "before")

    def write_half() -> None:
        with whole_file(path) as partial:
            partial.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write_half()
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_home_in_a_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    assert user_path("~/data") == user_path(Path("~/data")) == Path("/home/somebody/data")
    assert user_path("data/~") == Path("data/~")
    assert user_path("~nobody-of-that-name/x") == Path("~nobody-of-that-name/x")


def test_a_directory_is_never_replaced_and_named_before_the_work_is_done(tmp_path: Path) -> None:
    (tmp_path / "table.csv").mkdir()
    with pytest.raises(IsADirectoryError) as refused, whole_file(tmp_path / "table.csv"):
        pytest.fail("the work is done")
    assert refused.value.filename == str(tmp_path / "table.csv")
