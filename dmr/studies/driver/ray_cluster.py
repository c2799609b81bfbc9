"""The Ray a study runs on: connect to it or start one, and whether a trial fits it."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from dmr.studies.driver.local_ray import local_ray
from dmr.studies.driver.process_output import engine_noise_to
from dmr.studies.errors import StudyError
from dmr.studies.study_file.plan import StudyPlan

REFUSED = b"InvalidAuthToken"  # what Ray's own log says while it tries again; the exception is that of a silent host
TOKENS = "Ray takes RAY_AUTH_TOKEN, else the file RAY_AUTH_TOKEN_PATH, else ~/.ray/auth_token"


@dataclass(frozen=True)
class Need:
    """What one trial takes of a cluster, and how many fit at a time.

    Attributes:
        cpus, gpus: of one worker, which is on one node.
        workers: of a trial, at least and at most.
        nodes: CPUs and GPUs of each node.
    """

    cpus: float
    gpus: float
    workers: tuple[int, int]
    nodes: tuple[tuple[float, float], ...]

    @property
    def worker_slots(self) -> int:
        """How many workers fit, in all."""
        found = 0
        for cpus, gpus in self.nodes:
            by_cpu = int(cpus / self.cpus + 1e-9)
            found += by_cpu if not self.gpus else min(by_cpu, int(gpus / self.gpus + 1e-9))
        return found

    @property
    def fits(self) -> int:
        """Trials at a time. All workers need the same, so trials cannot deadlock waiting for each other's slots."""
        least, most = self.workers
        return max(self.worker_slots // most, 1) if self.worker_slots >= least else 0

    def text(self) -> str:
        least, most = self.workers
        several = f"{least} workers" if least == most else f"{least} to {most} workers"
        first, each = ("", "") if most == 1 else (f"{several} with ", " each")
        cpus, gpus = (sum(amounts) for amounts in zip(*self.nodes, strict=True)) if self.nodes else (0.0, 0.0)
        where = f" on {len(self.nodes)} nodes, on which {self.worker_slots} workers fit" if len(self.nodes) > 1 else ""
        return (
            f"a trial needs {first}{self.cpus:g} CPUs and {self.gpus:g} GPUs{each}; "
            f"there are {cpus:g} CPUs and {gpus:g} GPUs{where}"
        )


@contextmanager
def ray_running(address: str | None, groups: bool = False) -> Iterator[None]:
    """Connect to the cluster at `address`, or start a local Ray and end it.

    Args:
        groups: trials are trained by worker groups, which need Ray's dashboard: without it a group that is stopped
            keeps its CPUs and GPUs, and the next trial waits for ever.

    Raises:
        StudyError: no cluster answers there, or it refuses the token; Ray does not start here; it has no dashboard and
            needs one.
    """
    quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    with local_ray(include_dashboard=groups, **quiet) if address is None else _connection(address, **quiet) as found:
        if groups and not found.dashboard_url:
            raise StudyError(
                f"{'Ray here' if address is None else f'--address {address}'}: runs without its dashboard; trials with "
                "several workers need it (ray start --head --include-dashboard=true; pip install 'ray[default]')"
            )
        yield


class StudyRay:
    """The Ray of a study's stages: the one this process is connected to, else one of its own, which ends with the
    `with` block. It starts once, beside what else there is to do before the first trial. It starts and ends in one
    thread, since Linux ends Ray's processes with the thread that started them, and nothing else runs while it ends: an
    object of Ray's that is collected meanwhile would crash the process.
    """

    def __init__(self, plan: StudyPlan) -> None:
        self.plan = plan
        self._thread, self._running = ThreadPoolExecutor(1), ExitStack()
        self._started: Future[None] | None = None

    def __enter__(self) -> StudyRay:
        return self

    def __exit__(self, *error: Any) -> None:
        with self._thread:
            self._thread.submit(self._running.__exit__, *error).result()

    def start(self) -> None:
        """Start it, where there is none."""
        import ray

        if self._started is None and not ray.is_initialized():
            self._started = self._thread.submit(self._start)

    def wait(self) -> None:
        """Start it and wait until it runs.

        Raises:
            StudyError: it does not start, has no dashboard and needs one, or no trial fits it.
        """
        self.start()
        if self._started is not None:
            self._started.result()

    def _start(self) -> None:
        self._running.enter_context(ray_running(None, self.plan.study.resources.distributed))
        check_fits(self.plan, measure_need(self.plan))  # Ray may see fewer CPUs: those of its container


@contextmanager
def _connection(address: str, **settings: Any) -> Iterator[Any]:
    """Connect to a cluster; yields what `ray.init` returns.

    Raises:
        StudyError: none answers there, or it refuses the token.
    """
    import ray
    from ray.exceptions import AuthenticationError

    _check_address(address)
    with TemporaryDirectory() as folder:
        noise = Path(folder) / "noise"
        try:
            with engine_noise_to(noise):
                found = ray.init(address=address, **settings)
        except AuthenticationError:
            raise StudyError(f"--address {address}: there is no token for the cluster: {TOKENS}") from None
        except (ConnectionError, ValueError, RuntimeError) as error:
            asked = os.environ.get("RAY_AUTH_MODE") == "token"
            if REFUSED in noise.read_bytes():
                why = f"refuses the token: {TOKENS}" if asked else "wants a token: set RAY_AUTH_MODE=token"
                raise StudyError(f"--address {address}: the Ray cluster {why}") from None
            token = "" if asked else "; RAY_AUTH_MODE=token is not set"
            text = " ".join(str(error).split())[:200]
            raise StudyError(f"--address {address}: no Ray cluster answers: {text}{token}") from None
    try:
        yield found
    finally:
        ray.shutdown()


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

    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    need = _need(plan, tuple((node.get("CPU", 0.0), node.get("GPU", 0.0)) for node in alive))
    missing = max(0, slots_on_demand(plan) - need.worker_slots)
    return replace(need, nodes=need.nodes + ((need.cpus, need.gpus),) * missing)


def local_need(plan: StudyPlan) -> Need:
    """What a trial needs of a Ray of its own on this machine."""
    import torch

    return _need(plan, ((float(os.cpu_count() or 1), float(torch.cuda.device_count())),))


def _need(plan: StudyPlan, nodes: tuple[tuple[float, float], ...]) -> Need:
    resources = plan.study.resources
    return Need(resources.cpus, resources.gpus, resources.least_and_most, nodes)


def check_fits(plan: StudyPlan, need: Need) -> None:
    """Raises:
    StudyError: no trial can ever run there.
    """
    if need.fits < 1:
        raise StudyError(f"{plan.study.name}: resources: {need.text()}: no trial can ever run here")


def slots_on_demand(plan: StudyPlan) -> int:
    """How many workers the trials of a study may ask for where the autoscaler of the cluster this process is connected
    to adds nodes on demand: those of `resources.concurrent` trials, since nobody asks for nodes before trials wait for
    them. 0 where it adds none.

    Raises:
        StudyError: the cluster grows and the study does not say how far.
    """
    from ray.autoscaler.v2.utils import is_autoscaler_v2

    if not is_autoscaler_v2(fetch_from_server=True):
        return 0
    resources = plan.study.resources
    if resources.concurrent is None:
        raise StudyError(
            "resources.concurrent: none is given, and this cluster grows on demand: say how many trials may run at a "
            "time (--set resources.concurrent=4)"
        )
    return resources.concurrent * resources.least_and_most[1]
