"""What trials on several workers ask a cluster for: Ray keeps asking for three minutes after a trial was stopped or
died, gives the nodes to nobody else meanwhile, and a cluster that grows on demand does not shrink.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Collection
from pathlib import Path

log = logging.getLogger("dmr")

COORDINATOR = "AutoscalingCoordinator"  # Ray's actor, and its namespace
ANSWER_SECONDS = 5.0
REQUEST = ".request"  # ends the file of a request; before it its trial, and what the group calls itself


def note_request(groups: Path, number: int, requester: str) -> None:
    """Note what a trial's worker group calls itself where it asks the cluster for nodes."""
    groups.mkdir(exist_ok=True)
    (groups / f"{number:04d}-{requester}{REQUEST}").touch()


def withdraw_requests(groups: Path, live: Collection[int]) -> None:
    """Withdraw what worker groups asked for, except the latest group of each trial that runs."""
    if "ray" not in sys.modules:  # a complete study does not need it
        return
    import ray  # which may still be going on, in another thread

    if not ray.is_initialized():  # before the first trial, on a Ray that is started here: it knows of none
        return
    latest: dict[int, Path] = {}
    ended = []
    for file in sorted(groups.glob(f"*{REQUEST}"), key=lambda file: file.stat().st_mtime_ns):
        number = int(file.name.partition("-")[0])
        if number in latest:
            ended.append(latest[number])
        latest[number] = file
    ended += [file for number, file in latest.items() if number not in live]
    for file in ended:
        _withdraw(file.name.partition("-")[2].removesuffix(REQUEST))
        file.unlink(missing_ok=True)


def _withdraw(requester: str) -> None:
    import ray
    from ray.exceptions import GetTimeoutError, RayError

    try:
        coordinator = ray.get_actor(COORDINATOR, namespace=COORDINATOR)
        ray.get(coordinator.cancel_request.remote(requester), timeout=ANSWER_SECONDS)
    except (ValueError, RayError, GetTimeoutError) as error:  # there is no such actor: nobody keeps a request
        log.info("%s: what it asked the cluster for is not withdrawn: %s", requester, error)
