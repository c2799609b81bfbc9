"""A study on a simulated cluster, several raylets on this machine, whose nodes and drivers die and to which nodes come.

The head has no CPUs for trials, every other node has one. What has to happen while trials run happens while they are
held, so that no test depends on how fast this machine is.
"""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest
from optuna.trial import TrialState
from ray._private.authentication_test_utils import reset_auth_token_state
from ray._raylet import GcsClient
from ray.cluster_utils import Cluster
from ray.core.generated import autoscaler_pb2

from dmr.studies.storage.study_folder import StudyFolder

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]
HERE = Path(__file__).parent
EPOCHS = 6
SEEN_SOON = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_failure_threshold": 6}


class Start(NamedTuple):
    """An epoch began."""

    node: str
    process: int
    epoch: int


@pytest.fixture(scope="module")
def cluster(ray_nodes: Any) -> Iterator[Cluster]:
    """With token authentication, a token and sessions of its own."""
    with ray_nodes.short_home() as home, pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN_PATH", str(home / "token"))
        patch.setenv("RAY_TMPDIR", str(home))
        patch.setenv("PYTHONPATH", os.pathsep.join([str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])]))
        reset_auth_token_state()
        head = {"num_cpus": 0, "include_dashboard": False, "_system_config": SEEN_SOON}
        cluster = Cluster(initialize_head=True, head_node_args=head)
        yield cluster
        cluster.shutdown()
    reset_auth_token_state()


@pytest.fixture
def nodes(cluster: Cluster) -> Iterator[Cluster]:
    """Two nodes for trials; those that are left go with the test."""
    for _ in range(2):
        cluster.add_node(num_cpus=1)
    yield cluster
    for node in list(cluster.worker_nodes):
        cluster.remove_node(node, allow_graceful=False)


@pytest.fixture
def place(workplace: Any, nodes: Cluster) -> Any:
    workplace.with_faulty_method()
    return workplace


def write(place: Any, **changes: Any) -> None:
    """Trials of 2 s, each of which writes down where its epochs begin."""
    place.write_slow(
        **{"train__epochs": EPOCHS, "model__slow": 0.3, "model__trace": str(place.path / "trace")} | changes
    )


def starts(place: Any) -> list[Start]:
    file = place.path / "trace"
    lines = [line.split() for line in file.read_text().splitlines()] if file.exists() else []
    return [Start(node, int(process), int(epoch)) for node, process, epoch in lines]


def hold(place: Any, after: int = 2) -> Any:
    """Hold the trials as soon as one has begun the epoch `after`; returns the last one's start."""
    place.wait_for(lambda: starts(place) and starts(place)[-1].epoch >= after)
    (place.path / "trace.hold").touch()
    time.sleep(1.0)  # the epochs that run come to their end, and the next ones begin
    return starts(place)[-1]


def release(place: Any) -> None:
    (place.path / "trace.hold").unlink()


def node_of(cluster: Cluster, start: Start) -> Any:
    return next(node for node in cluster.worker_nodes if node.node_id == start.node)


def ended(driver: Any) -> str:
    _, err = driver.communicate(timeout=120)
    assert driver.returncode == 0, err
    return str(err)


def test_a_node_dies_others_come_and_every_trial_and_epoch_is_there_once(place: Any, nodes: Cluster) -> None:
    write(place, budget={"trials": 8}, retries=1)
    driver = place.start("run", "small.yaml", "--address", nodes.address)
    nodes.remove_node(node_of(nodes, hold(place)), allow_graceful=False)
    for _ in range(2):
        nodes.add_node(num_cpus=1)
    living = {node.node_id for node in nodes.worker_nodes}
    place.wait_for(lambda: living <= {start.node for start in starts(place)})
    release(place)
    ended(driver)
    place.assert_exact(8, EPOCHS)
    assert len(starts(place)) == 8 * EPOCHS + 1, "the epoch in flight is trained again, and nothing else"


@pytest.mark.long
def test_a_pre_emption_that_was_announced_is_no_retry_and_a_death_is(place: Any, nodes: Cluster) -> None:
    write(place, budget={"trials": 3}, retries=0)
    driver = place.start("run", "small.yaml", "--address", nodes.address)
    announced = node_of(nodes, hold(place))
    reason = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    accepted, why = GcsClient(address=nodes.address).drain_node(
        announced.node_id, reason, "spot capacity", time.time_ns() // 10**6 + 500
    )
    assert accepted, why
    nodes.remove_node(announced, allow_graceful=False)
    new = nodes.add_node(num_cpus=1)
    place.wait_for(lambda: starts(place)[-1].node == new.node_id)
    nodes.remove_node(new, allow_graceful=False)
    place.wait_for(lambda: TrialState.FAIL in place.states())
    release(place)
    err = ended(driver)
    assert sorted(trial.user_attrs["stop_reason"] for trial in place.optuna_trials()) == [
        "completed",
        "completed",
        "lost",
    ]
    assert "lost: its node died" in err
    assert "1 of 3 trials failed" in err


def test_the_driver_is_killed_and_another_goes_on(place: Any, nodes: Cluster) -> None:
    write(place, budget={"trials": 2}, retries=0)
    driver = place.start("run", "small.yaml", "--address", nodes.address)
    trial = hold(place).process
    os.kill(driver.pid, signal.SIGKILL)
    driver.communicate(timeout=60)
    place.wait_for(lambda: not psutil.pid_exists(trial), 20.0)
    release(place)
    ended(place.start("resume", "small", "--address", nodes.address))
    place.assert_exact(2, EPOCHS)
    assert len(starts(place)) <= 2 * EPOCHS + 2


@pytest.fixture
def apart(bucket_place: Any, cluster: Cluster, s3: Any) -> Iterator[Any]:
    """A workplace whose study and data lie in a bucket, and two nodes; what one keeps on its disk no other one sees."""
    place = bucket_place.with_faulty_method()
    place.caches = [place.path / name for name in ("one", "two")]
    for cache in place.caches:
        cluster.add_node(num_cpus=1, env_vars={"DMR_CACHE": str(cache)} | s3.environment)
    place.data = s3.put(place.path / "sensors", "sensors")
    yield place
    for node in list(cluster.worker_nodes):
        cluster.remove_node(node, allow_graceful=False)


def test_each_node_fetches_data_in_object_storage_into_a_cache_of_its_own(apart: Any, cluster: Cluster) -> None:
    """What the driver has of them no node could read."""
    write(apart, dataset={"name": "arrays", "path": apart.data}, budget={"trials": 4})
    driver = apart.start("run", "small.yaml", "--storage", "dmr_runs", "--address", cluster.address)
    apart.storage_url = None
    apart.wait_for(lambda: starts(apart))
    for file in Path(apart.environment["DMR_CACHE"]).rglob("*.npy"):
        file.unlink()
    ended(driver)
    apart.assert_exact(4, EPOCHS)
    assert len({start.node for start in starts(apart)}) == 2
    for cache in apart.caches:
        assert sum(file.is_file() for file in cache.rglob("*.npy")) == 12


def test_nodes_that_share_no_folder_train_and_confirm_a_study_in_a_bucket(
    apart: Any, cluster: Cluster, s3: Any
) -> None:
    """One of them dies; its trial goes on elsewhere, from what it had uploaded."""
    write(
        apart,
        dataset={"name": "arrays", "path": apart.data},
        budget={"trials": 3},
        confirm={"top": 1, "seeds": 2},
        retries=1,
    )
    driver = apart.start("run", "small.yaml", "--address", cluster.address)
    cluster.remove_node(node_of(cluster, hold(apart, after=3)), allow_graceful=False)
    cluster.add_node(num_cpus=1, env_vars={"DMR_CACHE": str(apart.path / "three")} | s3.environment)
    release(apart)
    err = ended(driver)
    assert "3 trials, " in err
    assert len(starts(apart)) <= (3 + 4) * EPOCHS + 2, "more than the epoch in flight and what was on its way"
    apart.assert_exact(3, EPOCHS)
    shutil.rmtree(apart.environment["DMR_CACHE"])
    assert "complete, 3 of 3 trials, 4 of 4 confirm runs" in apart.run("status", "small").stdout
    for run in (*apart.mlflow_runs(), *apart.mlflow_runs(stage="confirm")):
        found = {file.path for file in apart.client.list_artifacts(run.info.run_id)}
        assert found >= {"combinations.csv"} | ({"samples.npz"} if run.data.tags["stage"] == "confirm" else set())
    winner = apart.run("export", "small", "-o", str(apart.path / "model")).stderr
    assert "small confirm run" in winner


@pytest.mark.long
def test_an_epoch_that_hangs_on_a_node_of_its_own_is_told_as_such(apart: Any, cluster: Cluster) -> None:
    write(
        apart,
        dataset={"name": "arrays", "path": apart.data},
        budget={"trials": 1},
        model__fault="hang",
        train__epoch_minutes=0.15,
        retries=0,
    )
    driver = apart.start("run", "small.yaml", "--address", cluster.address)
    _, err = driver.communicate(timeout=120)
    assert driver.returncode == 1, err
    assert "trial 0 lost: an epoch took longer than train.epoch_minutes" in err
    folder = StudyFolder.open(apart.storage_url, "small")
    assert "in losses" in (folder.run("search", 0) / "error.txt").read_text()


def test_a_wrong_token_is_told_as_such(workplace: Any, cluster: Cluster) -> None:
    workplace.write()
    workplace.environment["RAY_AUTH_TOKEN"] = "0" * 64
    refused = workplace.dmr("run", "small.yaml", "--address", cluster.address)
    assert refused.returncode == 2
    assert f"--address {cluster.address}: the Ray cluster refuses the token" in refused.stderr
    assert not (workplace.path / "dmr_runs").exists()
