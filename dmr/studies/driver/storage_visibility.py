"""Whether every node of the cluster sees what a study writes: found out before anything is lost."""

from __future__ import annotations

import time
import uuid
from pathlib import Path

from dmr.studies.errors import StudyError

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
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = ray.get_runtime_context().get_node_id()
    others = [node for node in ray.nodes() if node["Alive"] and node["NodeID"] != here]
    if not others:
        return
    storage.mkdir(parents=True, exist_ok=True)
    marker = storage / f".shared-{uuid.uuid4().hex}"
    marker.touch()
    try:
        look = ray.remote(num_cpus=0, max_retries=0)(sees)
        answers = [
            look.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(marker)
            for node in others
        ]
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


def sees(marker: Path) -> bool:
    """Run on another node: whether the file is there."""
    until = time.monotonic() + SEEN_WITHIN
    while not marker.exists():
        if time.monotonic() > until:
            return False
        time.sleep(0.2)
    return True
