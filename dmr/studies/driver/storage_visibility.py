"""What other nodes see: whether the storage, found out before anything is lost; and what lies on their own disks."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from dmr.studies.errors import StudyError
from dmr.studies.storage.study_folder import StageName, StudyFolder

SEEN_WITHIN = 5.0  # seconds: NFS clients keep what a directory held for as long as 3 s
ANSWER_WITHIN = 60.0  # seconds: a node may have to start a process first


def check_shared(storage: Path) -> None:
    """Every node of the cluster this process is connected to sees what is written to the storage here.

    Raises:
        StudyError: one does not, or does not answer.
        OSError: it cannot be written here.
    """
    import ray
    from ray.exceptions import GetTimeoutError, RayError

    others = _other_nodes()
    if not others:
        return
    storage.mkdir(parents=True, exist_ok=True)
    marker = storage / f".shared-{uuid.uuid4().hex}"
    marker.touch()
    try:
        answers = [_ask(node, sees, marker) for node in others]
        until = time.monotonic() + ANSWER_WITHIN
        for node, answer in zip(others, answers, strict=True):
            name = node["NodeManagerAddress"]
            try:
                seen = ray.get(answer, timeout=max(0.0, until - time.monotonic()))
            except (GetTimeoutError, RayError) as error:
                raise StudyError(
                    f"node {name}: does not say whether it sees {storage}: {type(error).__name__}"
                ) from None
            if not seen:
                raise StudyError(
                    f"storage {storage}: node {name} does not see it; on a cluster of several nodes it must be a "
                    "folder that all of them mount at this path"
                )
    finally:
        marker.unlink()


def texts_elsewhere(folder: StudyFolder, stage: StageName, number: int, name: str) -> list[str]:
    """The files of this name in the folder of a trial on other nodes, where nodes share no folder; without those of
    nodes that do not answer.
    """
    import ray

    answers = [_ask(node, texts, folder, stage, number, name) for node in _other_nodes()]
    ready, _ = ray.wait(answers, num_returns=len(answers), timeout=ANSWER_WITHIN) if answers else ([], [])
    found: list[str] = []
    for answer in ready:
        with suppress(ray.exceptions.RayError):
            found += ray.get(answer)
    return found


def texts(folder: StudyFolder, stage: StageName, number: int, name: str) -> list[str]:
    """Run on a node: its files of this name, one per rank, without empty ones."""
    files = sorted(folder.run(stage, number).glob(f"*{name}"))
    return [file.read_text(encoding="utf-8") for file in files if file.stat().st_size]


def _other_nodes() -> list[Any]:
    import ray

    here = ray.get_runtime_context().get_node_id()
    return [node for node in ray.nodes() if node["Alive"] and node["NodeID"] != here]


def _ask(node: Any, function: Callable[..., object], *arguments: object) -> Any:
    """Run a function on a node; a reference to its answer."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
    return ray.remote(num_cpus=0, max_retries=0)(function).options(scheduling_strategy=there).remote(*arguments)


def sees(marker: Path) -> bool:
    """Run on another node: whether the file is there."""
    until = time.monotonic() + SEEN_WITHIN
    while not marker.exists():
        if time.monotonic() > until:
            return False
        time.sleep(0.2)
    return True
