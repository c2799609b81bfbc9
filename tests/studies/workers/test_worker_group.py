"""What a trial on several workers does around its group, without Ray."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.train import RunConfig, ScalingConfig
from ray.train.v2._internal.execution.context import TrainRunContext
from ray.train.v2._internal.execution.scaling_policy import create_scaling_policy, scaling_policy
from ray.util.queue import Empty

from dmr.studies.storage.study_folder import StudyFolder
from dmr.studies.trial_messages import PAYLOAD, RequestMessage, decode
from dmr.studies.workers import worker_group


@pytest.mark.parametrize("workers", [(2, 2), (1, 2)])
def test_the_driver_can_tell_what_a_group_calls_itself_where_it_asks_for_nodes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: tuple[int, int]
) -> None:
    """Whatever becomes of the trial's process; Ray's own policy says what it would ask under."""
    folder = StudyFolder(tmp_path, "s")
    folder.path.mkdir()
    asked: list[tuple[str, list[Any]]] = []
    told: list[dict[str, Any]] = []
    monkeypatch.setattr("ray.tune.report", told.append)

    class Trainer:
        def __init__(self, _: Any, scaling_config: ScalingConfig, run_config: RunConfig) -> None:
            self.scaling_config = scaling_config
            self.train_run_context = TrainRunContext(run_config, None, scaling_config, None, None)

        def fit(self) -> None:
            policy = create_scaling_policy(self.scaling_config)
            policy.after_controller_start(self.train_run_context)
            asked.append((policy._requester_id, [decode(one[PAYLOAD]) for one in told]))

    def nothing(timeout: float) -> None:
        raise Empty

    client = SimpleNamespace(send_resource_request=lambda *_: None)
    monkeypatch.setattr(scaling_policy, "TrainAutoscalingCoordinatorClient", lambda requester: client)
    queue = SimpleNamespace(get=nothing, shutdown=lambda force: None)
    monkeypatch.setattr(worker_group, "Queue", lambda actor_options: queue)
    monkeypatch.setattr(worker_group, "TorchTrainer", Trainer)
    context: Any = SimpleNamespace(folder=folder, stage="search", workers=workers, cpus=1.0, gpus=0.0)
    worker_group.run_group({"number": 7, "settings": None, "start": None}, context, [])
    [(requester, noted)] = asked
    assert noted == [RequestMessage(requester)]
