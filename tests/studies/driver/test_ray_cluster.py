"""How many trials fit a cluster, node by node."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest
from ray.exceptions import AuthenticationError

from dmr.studies.driver.ray_cluster import Need, ray_running
from dmr.studies.errors import StudyError


@pytest.mark.parametrize(
    ("cpus", "gpus", "workers", "nodes", "fits"),
    [
        (1.0, 0.0, (1, 1), ((2.0, 0.0),), 2),
        (1.0, 0.0, (1, 1), ((1.5, 0.0), (1.5, 0.0)), 2),  # 3 CPUs, but a worker is on one node
        (0.5, 0.0, (2, 2), ((2.0, 0.0),), 2),
        (1.0, 0.0, (3, 3), ((2.0, 0.0), (2.0, 0.0)), 1),  # over two nodes
        (2.0, 1.0, (2, 2), ((8.0, 1.0), (8.0, 1.0), (2.0, 4.0)), 1),  # 1 + 1 + 1 places
        (1.0, 0.25, (1, 1), ((16.0, 1.0),), 4),
        (1.0, 1.0, (1, 1), ((0.0, 0.0), (4.0, 2.0)), 2),  # a head without trials
        (1.0, 0.0, (2, 4), ((3.0, 0.0),), 1),  # three of two to four
        (1.0, 0.0, (2, 4), ((9.0, 0.0),), 2),  # counted at their most
        (1.0, 0.0, (2, 4), ((1.0, 0.0),), 0),
        (1.0, 0.0, (3, 3), ((2.0, 0.0),), 0),
        (1.0, 0.0, (1, 1), (), 0),
    ],
)
def test_how_many_trials_fit(cpus, gpus, workers, nodes, fits):
    assert Need(cpus, gpus, workers, nodes).fits == fits


def test_what_does_not_fit_is_told_with_the_numbers():
    need = Need(2.0, 1.0, (4, 4), ((8.0, 1.0), (8.0, 2.0)))
    assert need.text() == (
        "a trial needs 4 workers with 2 CPUs and 1 GPUs each; there are 16 CPUs and 3 GPUs on 2 nodes, on which 3 "
        "workers fit"
    )


@pytest.mark.parametrize("address", [None, "auto"])
def test_worker_groups_are_refused_where_ray_has_no_dashboard(address, monkeypatch, tmp_path):
    import ray

    ended, session = [], {"session_dir": str(tmp_path)}
    monkeypatch.setattr(ray, "init", lambda **given: SimpleNamespace(dashboard_url="", address_info=session))
    monkeypatch.setattr(ray, "shutdown", lambda: ended.append(True))
    with (
        pytest.raises(StudyError, match="runs without its dashboard; trials with several workers need it"),
        ray_running(address, groups=True),
    ):
        pytest.fail("a study was started")
    assert ended == [True]
    with ray_running(address):
        pass


@pytest.mark.parametrize(
    ("mode", "noise", "error", "text"),
    [
        (
            "token",
            "InvalidAuthToken",
            ConnectionError("no"),
            "the Ray cluster refuses the token: Ray takes RAY_AUTH_TOKEN",
        ),
        (None, "InvalidAuthToken", ConnectionError("no"), "the Ray cluster wants a token: set RAY_AUTH_MODE=token"),
        ("token", "", AuthenticationError("none"), "there is no token for the cluster: Ray takes RAY_AUTH_TOKEN"),
        ("token", "", ConnectionError("no"), "no Ray cluster answers: no"),
        (None, "", ConnectionError("no"), "no Ray cluster answers: no; RAY_AUTH_MODE=token is not set"),
    ],
)
def test_why_a_cluster_does_not_let_us_in(mode, noise, error, text, monkeypatch):
    import ray

    def init(**given):
        os.write(2, noise.encode())  # as Ray's own log does
        raise error

    monkeypatch.setattr(ray, "init", init)
    if mode is None:
        monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    else:
        monkeypatch.setenv("RAY_AUTH_MODE", mode)
    with pytest.raises(StudyError) as refused, ray_running("auto"):
        pytest.fail("connected")
    (line,) = refused.value.lines
    assert line.startswith(f"--address auto: {text}")
