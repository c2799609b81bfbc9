"""The Ray of a study's stages: it starts beside other work, once, and ends in the thread that it was started in."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from dmr.studies.driver import ray_cluster
from dmr.studies.driver.ray_cluster import Need, StudyRay
from dmr.studies.errors import StudyError

PLAN: Any = SimpleNamespace(study=SimpleNamespace(name="s", resources=SimpleNamespace(distributed=False)))


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, threading.Thread]]:
    """What happens to a Ray with 2 CPUs, and in which thread."""
    seen = []

    @contextmanager
    def running(address: str | None, groups: bool) -> Iterator[None]:
        seen.append(("start", threading.current_thread()))
        try:
            yield
        finally:
            seen.append(("end", threading.current_thread()))

    monkeypatch.setattr(ray_cluster, "ray_running", running)
    monkeypatch.setattr(ray_cluster, "measure_need", lambda plan: Need(1.0, 0.0, (1, 1), ((2.0, 0.0),)))
    return seen


def test_ray_starts_once_in_a_thread_that_lives_until_it_has_ended(seen: list[tuple[str, threading.Thread]]) -> None:
    with StudyRay(PLAN) as engine:
        engine.start()
        engine.wait()
        engine.wait()
        assert [what for what, _ in seen] == ["start"]
    (_, started_in), (what, ended_in) = seen
    assert what == "end"
    assert started_in is ended_in is not threading.current_thread()
    assert not started_in.is_alive()


def test_a_study_that_needs_no_ray_starts_none(seen: list[tuple[str, threading.Thread]]) -> None:
    with StudyRay(PLAN):
        pass
    assert seen == []


def test_ray_ends_where_what_goes_on_beside_its_start_fails(seen: list[tuple[str, threading.Thread]]) -> None:
    def fail() -> None:
        with StudyRay(PLAN) as engine:
            engine.start()
            raise StudyError("the store is gone")

    with pytest.raises(StudyError, match="the store is gone"):
        fail()
    assert [what for what, _ in seen] == ["start", "end"]


def test_a_start_that_fails_is_told_to_who_waits_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def running(address: str | None, groups: bool) -> Iterator[None]:
        raise StudyError("Ray does not start here")
        yield

    monkeypatch.setattr(ray_cluster, "ray_running", running)
    with StudyRay(PLAN) as engine:
        engine.start()
        with pytest.raises(StudyError, match="Ray does not start here"):
            engine.wait()
