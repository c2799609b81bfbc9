"""What a driver does before it hands trials to Ray Tune."""

from __future__ import annotations

import gc
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest

from dmr.analysis.garbage import no_collecting
from dmr.studies.driver import ray_cluster
from dmr.studies.driver.ray_cluster import Need, StudyRay
from dmr.studies.driver.stage_driver import StageDriver
from dmr.studies.errors import StudyError
from dmr.studies.storage.study_folder import StudyFolder


def test_a_trial_that_does_not_fit_the_ray_started_here_does_not_wait_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_cluster, "ray_running", lambda address, groups: nullcontext())
    monkeypatch.setattr(ray_cluster, "measure_need", lambda plan: Need(4.0, 0.0, (1, 1), ((2.0, 0.0),)))
    stage: Any = SimpleNamespace(
        plan=SimpleNamespace(study=SimpleNamespace(name="s", resources=SimpleNamespace(distributed=False))),
        folder=StudyFolder(tmp_path, "s"),
        stage="search",
        minutes=None,
        error=None,
        live={},
        complete=False,
        guarded=nullcontext,
        tracker=SimpleNamespace(journal_failed=False),
        retry_queue=SimpleNamespace(send=lambda: True),
        writer=None,
    )
    stage.folder.path.mkdir()
    with (
        StudyRay(stage.plan) as engine,
        pytest.raises(StudyError, match=r"needs 4 CPUs .* there are 2 CPUs .* can ever run here"),
    ):
        StageDriver(stage, SimpleNamespace(), engine).run()  # type: ignore[arg-type]


def test_garbage_is_looked_for_while_trials_run() -> None:
    driver = MagicMock(should_stop=lambda: False)
    driver.stage.complete = False
    driver.train = MagicMock(side_effect=lambda: seen.append(gc.isenabled()))
    seen: list[bool] = []
    with no_collecting():
        StageDriver.run(driver)
    assert seen == [True]
