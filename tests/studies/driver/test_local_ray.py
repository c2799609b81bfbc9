"""The Ray that a study starts here: what keeps it from starting is told before, and it leaves nothing behind."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import pytest

from dmr.studies.driver import local_ray as module
from dmr.studies.driver.local_ray import check_can_start, local_ray
from dmr.studies.errors import StudyError


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_TMPDIR", "TMPDIR"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("short")
def test_a_folder_that_ray_can_use_is_left_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    check_can_start()
    with TemporaryDirectory(prefix="a b%41", dir="/tmp") as folder:
        for name in (folder, f"{folder}/new"):
            monkeypatch.setenv("RAY_TMPDIR", name)
            check_can_start()
        assert os.listdir(folder) == []


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("variable", ["TMPDIR", "RAY_TMPDIR"])
@pytest.mark.parametrize(
    ("folder", "reason"),
    [
        ("/tmp/" + "long" * 20, "too long a path for Ray's sockets; set RAY_TMPDIR to a folder with a short one"),
        ("/tmp/größe", "Ray takes a path of ASCII letters only; set RAY_TMPDIR to another folder"),
        ("/dev/null/below", "cannot be written: Not a directory; set RAY_TMPDIR to a folder that can be written"),
        ("/proc/none", "cannot be written: "),
    ],
)
def test_a_folder_that_it_cannot_use(monkeypatch: pytest.MonkeyPatch, variable: str, folder: str, reason: str) -> None:
    monkeypatch.setenv(variable, folder)
    with pytest.raises(StudyError) as error:
        check_can_start()
    (line,) = error.value.lines
    assert line.startswith(f"{variable}={folder}: ")
    assert reason in line


@pytest.mark.usefixtures("short")
def test_a_full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(dir: Path) -> Any:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(module, "TemporaryFile", full)
    with pytest.raises(
        StudyError, match=r"^/tmp: Ray keeps its files there.*: No space left on device; set RAY_TMPDIR"
    ):
        check_can_start()


def session(folder: Path) -> Path:
    made = folder / "session_1"
    (made / "logs").mkdir(parents=True)
    (folder / "session_latest").symlink_to(made)
    return made


@pytest.mark.parametrize("mode", [None, "token", "disabled"])
def test_whoever_has_no_token_gets_one_that_goes_with_ray(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, mode: str | None
) -> None:
    """Ray would write one into the home, which need not be writable."""
    import ray
    from ray._private.authentication_test_utils import reset_auth_token_state

    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE"):
        monkeypatch.delenv(name, raising=False)
    if mode is not None:
        monkeypatch.setenv("RAY_AUTH_MODE", mode)
    monkeypatch.setenv("HOME", "/dev/null")
    reset_auth_token_state()
    seen = []

    def init(**given: Any) -> Any:
        seen.append(os.environ["RAY_AUTH_TOKEN"])
        return SimpleNamespace(address_info={"session_dir": str(session(tmp_path))})

    monkeypatch.setattr(ray, "init", init)
    for _ in range(2):
        with local_ray():
            assert len(os.environ["RAY_AUTH_TOKEN"]) == 64
        assert "RAY_AUTH_TOKEN" not in os.environ
        assert list(tmp_path.iterdir()) == []
    assert len(set(seen)) == 2
    monkeypatch.undo()
    reset_auth_token_state()


def test_the_session_of_another_ray_stays(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import ray

    mine, other = session(tmp_path), tmp_path / "session_2"
    monkeypatch.setattr(ray, "init", lambda **given: SimpleNamespace(address_info={"session_dir": str(mine)}))
    with local_ray():
        other.mkdir()
        (tmp_path / "session_latest").unlink()
        (tmp_path / "session_latest").symlink_to(other)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["session_2", "session_latest"]


def test_a_start_that_took_ray_too_long_is_tried_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import ray

    mine = session(tmp_path)
    starts: list[object] = []

    def init(**given: Any) -> Any:
        starts.append(given)
        if len(starts) < 3:
            raise Exception("The current node timed out during startup")
        return SimpleNamespace(address_info={"session_dir": str(mine)})

    monkeypatch.setattr(ray, "init", init)
    with local_ray():
        assert len(starts) == 3


def test_the_logs_of_a_ray_that_fails_stay(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import ray

    mine = session(tmp_path)
    monkeypatch.setattr(ray, "init", lambda **given: SimpleNamespace(address_info={"session_dir": str(mine)}))

    def crash() -> None:
        with local_ray():
            raise KeyError("of Ray's")

    with pytest.raises(KeyError):
        crash()
    assert (mine / "logs").is_dir()

    def fail(**given: Any) -> Any:
        raise Exception("The current node timed out\nduring startup")

    monkeypatch.setattr(ray, "init", fail)
    monkeypatch.setenv("RAY_TMPDIR", "/t")
    with pytest.raises(StudyError) as error, local_ray():
        pytest.fail("it started")
    assert error.value.lines == (
        "Ray does not start here: The current node timed out during startup (logs: /t/ray/session_latest/logs)",
    )
