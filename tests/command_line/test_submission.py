"""`dmr` on a real cluster of two Ray nodes with token authentication: a head without CPUs, and a worker.

Only what the fixture started is ended, by its process: `ray stop` would end every Ray of the machine.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import ray
import yaml
from mlflow.utils import find_free_port

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]
HERE = Path(__file__).parent
RAY = Path(sys.executable).with_name("ray")
BLIND = (
    "import dmr.studies.driver.storage_visibility as s; s.sees = lambda marker: False; "
    "from dmr.studies.cli import main; main()"
)


@dataclass
class Cluster:
    address: str
    environment: dict[str, str]


@pytest.fixture(scope="module")
def home(ray_nodes: Any) -> Iterator[Path]:
    with ray_nodes.short_home() as path:
        yield path


@pytest.fixture(scope="module")
def environment(home: Path, ray_nodes: Any) -> dict[str, str]:
    python_path = os.pathsep.join([str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])])
    return ray_nodes.environment_of_nodes(home, RAY.parent, python_path)


@pytest.fixture(scope="module")
def cluster(home: Path, environment: dict[str, str], ray_nodes: Any) -> Iterator[Cluster]:
    """A head on which no trial runs, and a worker."""
    port, api = find_free_port(), find_free_port()
    with ExitStack() as nodes:
        options = (f"--port={port}", f"--dashboard-port={api}", "--num-cpus=0")
        head, address = ray_nodes.start_head(home, "head", environment, *options)
        nodes.callback(ray_nodes.end, head)
        worker, _ = ray_nodes.start_node(home, "worker", environment, f"--address={address}", "--num-cpus=2")
        nodes.callback(ray_nodes.end, worker)
        yield Cluster(address, {**environment, "RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{api}"})


@pytest.fixture
def place(workplace: Any, cluster: Cluster) -> Any:
    workplace.environment |= cluster.environment
    return workplace


def submit(place: Any, *arguments: str) -> subprocess.Popen[str]:
    place.command = (RAY,)
    return place.start("job", "submit", "--working-dir", ".", *arguments)


def test_a_submitted_study_runs_on_the_other_node_and_tells_how_far_it_is(place: Any, ray_nodes: Any) -> None:
    place.write(budget={"trials": 3}, dataset__path=str((place.path / "sensors").resolve()))
    (place.path / "sensors").unlink()
    storage, store = place.path / "shared", place.path / "mlflow.db"
    variables = f'{{"env_vars": {{"MLFLOW_TRACKING_URI": "sqlite:///{store}"}}}}'
    job = submit(place, "--runtime-env-json", variables, "--", "dmr", "run", "small.yaml", "--storage", str(storage))
    out, err = job.communicate(timeout=240)
    assert job.returncode == 0, out + err
    said = ray_nodes.said_by_job(out)
    assert [line.split(" ")[0] for line in said if " trials, best " in line] == ["1/3", "2/3", "3/3"]
    assert "study small is complete: 3 trials" in said
    assert not re.search(r"\x1b|━", "\n".join(said)), "a live table in a log"
    assert [run.info.status for run in place.mlflow_runs()] == ["FINISHED"] * 3
    assert {trial.user_attrs["stop_reason"] for trial in place.optuna_trials(storage="shared")} == {"completed"}


def test_the_exit_code_and_the_reason_of_a_submission_that_fails_arrive(place: Any, ray_nodes: Any) -> None:
    place.write(train__epochs="many")
    job = submit(place, "--", "dmr", "run", "small.yaml", "--storage", str(place.path / "shared"))
    out, err = job.communicate(timeout=240)
    assert job.returncode == 1, out + err
    assert "small.yaml: train.epochs" in ray_nodes.said_by_job(out)[0]
    assert "failed with exit code 2" in out
    assert not (place.path / "shared").exists()


def test_a_shell_on_a_node_uses_the_cluster_and_another_watches(place: Any, cluster: Cluster) -> None:
    place.write_slow(budget={"trials": 2})
    place.environment["RAY_ADDRESS"] = cluster.address
    driver = place.start("run", "small.yaml")
    place.wait_for(place.epochs_of_running)
    watching = place.run("status", "small").stdout
    out, err = driver.communicate(timeout=240)
    assert driver.returncode == 0, out + err
    assert "small: running (process" in watching
    place.assert_exact(2, 8)


def test_a_storage_that_the_other_node_does_not_see_is_refused(place: Any, cluster: Cluster) -> None:
    """All nodes of this machine share its disk, so the look from the other node is made blind."""
    place.write()
    place.command = (sys.executable, "-c", BLIND)
    refused = place.dmr("run", "small.yaml", "--address", cluster.address)
    assert refused.returncode == 2, refused.stdout + refused.stderr
    assert re.fullmatch(r"storage \S+/dmr_runs: node [\d.]+ does not see it; [^\n]+\n", refused.stderr)
    assert list((place.path / "dmr_runs").iterdir()) == []


def test_nobody_without_the_token_gets_in(cluster: Cluster) -> None:
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(f"{cluster.environment['RAY_API_SERVER_ADDRESS']}/api/jobs/", timeout=30)


@pytest.mark.long
def test_a_cluster_grows_from_nothing_to_the_trials_that_wait(
    workplace: Any, home: Path, environment: dict[str, str], ray_nodes: Any
) -> None:
    """With Ray's pretended provider, whose nodes are raylets on this machine."""
    head_id, port, api = "f" * 51 + "00000", find_free_port(), find_free_port()
    provider = {
        "type": "external",
        "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
        "gcs_address": f"{ray.util.get_node_ip_address()}:{port}",
        "head_node_id": head_id,
        "launch_multiple": True,
    }
    document = yaml.safe_load((HERE.parents[1] / "ray_cluster.yaml").read_text())
    document |= {"provider": provider, "head_node_type": "ray.head.default", "docker": {}, "file_mounts": {}}
    document["available_node_types"] = {
        "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
        "worker": {"resources": {"CPU": 1}, "node_config": {}, "min_workers": 0, "max_workers": 2},
    }
    document |= {key: [] for key in document if key.endswith("_commands")} | {"cluster_synced_files": []}
    (home / "grows.yaml").write_text(yaml.safe_dump(document))
    pretended = {"RAY_FAKE_CLUSTER": "1", "RAY_enable_autoscaler_v2": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1"}
    pretended |= {"RAY_CLOUD_INSTANCE_ID": head_id, "RAY_OVERRIDE_NODE_ID_FOR_TESTING": head_id}
    options = [f"--port={port}", f"--dashboard-port={api}", "--num-cpus=0"]
    options.append(f"--autoscaling-config={home / 'grows.yaml'}")
    head, address = ray_nodes.start_head(home, "grows", environment | pretended, *options)
    try:
        workplace.environment |= environment
        workplace.write(budget={"trials": 2}, resources={"concurrent": 2})
        workplace.run("run", "small.yaml", "--address", address)
    finally:
        ray_nodes.end(head)
    workplace.assert_exact(2, 4)
