from __future__ import annotations

import errno
import resource
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from dmr.checkpoints import save_checkpoint
from dmr.files import user_path, whole_file, write_text
from dmr.studies.tracking.journal import Journal


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


@contextmanager
def no_file_larger_than(size: int) -> Iterator[None]:
    """Writing beyond that fails as on a full disk: the error does not say which file it is about."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_an_error_of_the_file_system_names_the_file(tmp_path: Path) -> None:
    text, checkpoint, lines = tmp_path / "data.json", tmp_path / "last.pt", tmp_path / "journal.jsonl"
    journal = Journal(lines)
    for path, write in (
        (text, lambda: write_text(text, "x" * 9_000)),
        (checkpoint, lambda: save_checkpoint(checkpoint, {"weights": torch.zeros(9_000)})),
        (lines, lambda: journal.append({"text": "x" * 9_000})),
    ):
        with pytest.raises(OSError, match=str(path)) as error, no_file_larger_than(4_096):
            write()
        assert (error.value.errno in (errno.EFBIG, errno.ENOSPC), error.value.filename) == (True, str(path))
    journal.close()
    assert list(tmp_path.iterdir()) == [lines]
