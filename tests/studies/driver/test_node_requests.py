"""What trials on several workers ask a cluster for is withdrawn, without Ray."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray
from ray.exceptions import GetTimeoutError

from dmr.studies.driver.node_requests import COORDINATOR, withdraw_requests


@pytest.fixture
def withdrawn(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What Ray's coordinator was told."""
    told: list[str] = []
    coordinator = SimpleNamespace(cancel_request=SimpleNamespace(remote=told.append))
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray, "get_actor", lambda name, namespace: {(COORDINATOR,) * 2: coordinator}[name, namespace])
    monkeypatch.setattr(ray, "get", lambda reference, timeout: reference)
    return told


@pytest.fixture
def groups(tmp_path: Path) -> Path:
    """Trial 0 has ended, trial 1 was started again, and Ray has files of its own there."""
    for age, name in enumerate(["0001-train-new", "0001-train-old", "0000-train-ended"]):
        (tmp_path / f"{name}.request").touch()
        os.utime(tmp_path / f"{name}.request", (1000 - age, 1000 - age))
    (tmp_path / "0000-1f2e3d4c").mkdir()
    return tmp_path


def left(groups: Path) -> list[str]:
    return sorted(file.stem for file in groups.glob("*.request"))


def test_what_runs_keeps_its_request_and_nothing_else_does(groups: Path, withdrawn: list[str]) -> None:
    withdraw_requests(groups, live={1: None})
    assert sorted(withdrawn) == ["train-ended", "train-old"]
    assert left(groups) == ["0001-train-new"]
    withdraw_requests(groups, live={1: None})
    assert len(withdrawn) == 2, "once is enough"
    withdraw_requests(groups, live=())
    assert withdrawn[2:] == ["train-new"]
    assert left(groups) == []


def test_before_there_is_a_trial_there_is_nothing_to_withdraw(tmp_path: Path, withdrawn: list[str]) -> None:
    withdraw_requests(tmp_path / "groups_search", live=())
    assert withdrawn == []


def test_no_ray_is_started_to_withdraw_what_an_earlier_one_was_asked_for(
    groups: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray, "get_actor", lambda *_, **__: pytest.fail("starts a Ray"))
    withdraw_requests(groups, live=())
    assert len(left(groups)) == 3


@pytest.mark.parametrize("error", [ValueError("no such actor"), GetTimeoutError("no answer")])
def test_a_coordinator_that_is_away_stops_no_study(
    groups: Path, withdrawn: list[str], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr(ray, "get_actor", raising(error))
    withdraw_requests(groups, live=())
    assert left(groups) == [], "what nobody withdraws expires"


def raising(error: Exception) -> Callable[..., None]:
    def fail(*_: object, **__: object) -> None:
        raise error

    return fail
