from __future__ import annotations

import logging
import os
import pickle
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import numpy as np
import pytest
import torch

from dmr.checkpoints import load_checkpoint, save_checkpoint

CPU = torch.device("cpu")
STATE = {"network": {"weight": torch.arange(300.0)}, "report": {"epoch": 3, "metrics": {"val/nll": 0.1}}}


def test_round_trip(tmp_path: Path, assert_identical: Callable[[Any, Any], None]) -> None:
    file = tmp_path / "last.pt"
    save_checkpoint(file, STATE)
    assert_identical(load_checkpoint(file, CPU), STATE)
    assert os.listdir(tmp_path) == ["last.pt"]


def test_no_checkpoint_is_none_without_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert load_checkpoint(tmp_path / "last.pt", CPU) is None
    assert not caplog.records


def test_truncated_files_are_left_aside(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "last.pt"
    save_checkpoint(file, STATE)
    whole = file.read_bytes()
    for length in range(0, len(whole), 29):
        file.write_bytes(whole[:length])
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            assert load_checkpoint(file, CPU) is None, length
        assert "cannot be read and is left aside" in caplog.text, length


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_garbage_is_left_aside(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "last.pt"
    draw = np.random.default_rng(0)
    for length in draw.integers(0, 200, size=300):
        file.write_bytes(draw.bytes(length))
        caplog.clear()
        assert load_checkpoint(file, CPU) is None
        assert str(file) in caplog.text


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_damaged_bytes_never_raise(tmp_path: Path) -> None:
    file = tmp_path / "last.pt"
    save_checkpoint(file, STATE)
    whole, draw = file.read_bytes(), np.random.default_rng(0)
    for position in draw.integers(0, 1000, size=300):
        damaged = bytearray(whole)
        damaged[position] ^= int(draw.integers(1, 256))
        file.write_bytes(damaged)
        state = load_checkpoint(file, CPU)
        assert state is None or isinstance(state, dict)


def test_what_is_no_mapping_is_left_aside(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    torch.save([1, 2], tmp_path / "last.pt")
    assert load_checkpoint(tmp_path / "last.pt", CPU) is None
    assert "a list, not a checkpoint" in caplog.text


class _Attack:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.target,))


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("as_zip", [True, False])
def test_code_in_a_file_is_not_run(tmp_path: Path, as_zip: bool) -> None:
    file, touched = tmp_path / "last.pt", tmp_path / "touched"
    if as_zip:
        torch.save({"a": _Attack(touched)}, file)
    else:
        file.write_bytes(pickle.dumps({"a": _Attack(touched)}))
    assert load_checkpoint(file, CPU) is None
    assert not touched.exists()


def test_a_failed_write_keeps_the_old_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, assert_identical: Callable[[Any, Any], None]
) -> None:
    file = tmp_path / "last.pt"
    save_checkpoint(file, STATE)

    def full_disk(state: Any, target: BinaryIO) -> NoReturn:
        target.write(b"half a check")
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full_disk)
        with pytest.raises(OSError, match="no space left"):
            save_checkpoint(file, {"network": {}})
    assert_identical(load_checkpoint(file, CPU), STATE)
    save_checkpoint(file, {"network": {}})
    assert load_checkpoint(file, CPU) == {"network": {}}


def test_a_save_replaces_the_file_in_one_move(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, seen = tmp_path / "last.pt", []
    save_checkpoint(file, {"epoch": 0})
    replace = os.replace

    def watch(source: Path, target: Path) -> None:
        seen.append((load_checkpoint(Path(source), CPU), load_checkpoint(Path(target), CPU)))
        replace(source, target)

    monkeypatch.setattr(os, "replace", watch)
    save_checkpoint(file, {"epoch": 1})
    assert seen == [({"epoch": 1}, {"epoch": 0})]
    assert load_checkpoint(file, CPU) == {"epoch": 1}


def test_a_write_that_fails_says_why_and_leaves_the_old_checkpoint(tmp_path: Path) -> None:
    file = tmp_path / "last.pt"
    save_checkpoint(file, {"epoch": 0})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            save_checkpoint(file, {"epoch": 1, "weights": torch.zeros(1_000_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert load_checkpoint(file, torch.device("cpu")) == {"epoch": 0}
    assert list(tmp_path.iterdir()) == [file]
