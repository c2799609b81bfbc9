"""Trials on several workers, on nodes that share no folder: the study and its data lie in a bucket."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from mlflow.utils import find_free_port

pytestmark = [pytest.mark.cluster, pytest.mark.long, pytest.mark.timeout(900)]
HERE = Path(__file__).parent
EPOCHS = 6


@pytest.fixture
def nodes(bucket_place: Any, ray_nodes: Any) -> Iterator[Any]:
    """A head without CPUs, and how to start a node with one, which keeps what it fetches where no other one looks."""
    place = bucket_place.with_faulty_method()
    python_path = os.pathsep.join([str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])])
    with ray_nodes.short_home() as home, ExitStack() as started:
        environment = ray_nodes.environment_of_nodes(home, Path(place.command[0]).parent, python_path)
        place.environment |= environment | place.environment
        options = (f"--port={find_free_port()}", f"--dashboard-port={find_free_port()}", "--num-cpus=0")
        cache = {"DMR_CACHE": str(place.path / "head")}
        head, address = ray_nodes.start_head(home, "head", place.environment | cache, *options)
        started.callback(ray_nodes.end, head)
        place.environment["RAY_ADDRESS"] = address

        def add(name: str) -> Any:
            cache = {"DMR_CACHE": str(place.path / name)}
            options = (f"--address={address}", "--num-cpus=1")
            node, _ = ray_nodes.start_node(home, name, place.environment | cache, *options)
            started.callback(ray_nodes.end, node)
            return node

        yield add


@pytest.mark.parametrize("workers", [2, [1, 2]], ids=str)
def test_a_group_on_two_nodes_that_share_no_folder_loses_one_and_goes_on(
    bucket_place: Any, nodes: Any, s3: Any, workers: Any
) -> None:
    place = bucket_place
    place.write_slow(
        train__epochs=EPOCHS,
        dataset={"name": "arrays", "path": s3.put(place.path / "sensors", "sensors")},
        budget={"trials": 2},
        resources={"workers": workers},
        confirm={"top": 1, "seeds": 1},
        retries=1,
    )
    nodes("one")
    lost = nodes("two")
    driver = place.start("run", "small.yaml")
    place.wait_for(lambda: driver.poll() is not None or place.epochs_of_running() > 2)
    os.killpg(lost.pid, signal.SIGKILL)
    nodes("three")
    _, err = driver.communicate(timeout=400)
    assert driver.returncode == 0, err
    assert "begins again" not in err
    place.assert_exact(2, EPOCHS)
    shutil.rmtree(place.environment["DMR_CACHE"])
    assert "complete, 2 of 2 trials" in place.run("status", "small").stdout
    (confirmed, *_) = place.mlflow_runs(stage="confirm")
    assert "samples.npz" in {file.path for file in place.client.list_artifacts(confirmed.info.run_id)}
