"""The Ray a study runs on: connect to it or start one, and whether a trial fits it."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from studies.autoscaling import room_to_grow
from studies.credentials import without_secrets
from studies.errors import StudyError
from studies.plan import StudyPlan
from studies.screen import engine_noise_to


@dataclass(frozen=True)
class Need:
    """What one trial takes of a cluster, and how many fit at a time."""

    cpus: float
    gpus: float
    total_cpus: float
    total_gpus: float

    @property
    def fits(self) -> int:
        by_cpu = int(self.total_cpus / self.cpus + 1e-9)
        return by_cpu if not self.gpus else min(by_cpu, int(self.total_gpus / self.gpus + 1e-9))

    def text(self) -> str:
        return (
            f"a trial needs {self.cpus:g} CPUs and {self.gpus:g} GPUs; "
            f"there are {self.total_cpus:g} CPUs and {self.total_gpus:g} GPUs"
        )


@contextmanager
def ray_running(address: str | None) -> Iterator[None]:
    """Connect to the cluster at `address`, or start a local Ray and end it.

    Raises:
        StudyError: no cluster answers there.
    """
    import ray

    if address is not None:
        _check_address(address)
    quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    try:
        if address is None:
            with without_secrets(), _on_loopback():
                ray.init(address="local", include_dashboard=False, **quiet)
        else:
            with engine_noise_to(Path(os.devnull)):
                ray.init(address=address, **quiet)
    except (ConnectionError, ValueError, RuntimeError) as error:
        what = "Ray does not start here" if address is None else f"--address {address}: no Ray cluster answers"
        token = (
            "" if address is None or os.environ.get("RAY_AUTH_MODE") == "token" else "; RAY_AUTH_MODE=token is not set"
        )
        raise StudyError(f"{what}: {' '.join(str(error).split())[:200]}{token}") from None
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def _on_loopback() -> Iterator[None]:
    """A Ray started here listens on 127.0.0.1 alone. Ray's switch for that is a variable that `import ray` reads, and
    its import may lie behind us.
    """
    from ray._private import ray_constants

    before = ray_constants.ENABLE_RAY_CLUSTER, os.environ.get(ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR)
    ray_constants.ENABLE_RAY_CLUSTER, os.environ[ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR] = False, "0"
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before[0]
        del os.environ[ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR]
        if before[1] is not None:
            os.environ[ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR] = before[1]


def _check_address(address: str) -> None:
    """Ray tries an address for minutes before it gives up.

    Raises:
        StudyError: nothing listens at the host and port of the address.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        try:
            socket.create_connection((host, int(port)), timeout=5.0).close()
        except OSError as error:
            raise StudyError(f"--address {address}: no Ray cluster answers: {error}") from None


def measure_need(plan: StudyPlan) -> Need:
    """What a trial needs of the Ray this process is connected to."""
    import ray

    total = room_to_grow(plan, ray.cluster_resources())
    resources = plan.study.resources
    return Need(resources.cpus, resources.gpus, total.get("CPU", 0.0), total.get("GPU", 0.0))


def local_need(plan: StudyPlan) -> Need:
    """What a trial needs of a Ray of its own on this machine."""
    import torch

    resources = plan.study.resources
    return Need(resources.cpus, resources.gpus, float(os.cpu_count() or 1), float(torch.cuda.device_count()))


def check_fits(plan: StudyPlan, need: Need) -> None:
    """Raises:
    StudyError: no trial can ever run there.
    """
    if need.fits < 1:
        raise StudyError(f"{plan.study.name}: resources: {need.text()}: no trial can ever run here")
