"""Trials on several workers, through `dmr run`: what one worker gives, whatever happens to a worker or a trial."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from optuna.trial import TrialState

pytestmark = pytest.mark.cluster

# All but one learn alike, so that the scheduler stops that one, whichever comes first.
POINTS = [
    {"train.learning_rate": 0.01, "model.fault": "none"},
    {"train.learning_rate": 0.01, "model.fault": "kill_once"},
    {"train.learning_rate": 1e-8, "model.fault": "none"},
    {"train.learning_rate": 0.01, "model.fault": "error"},
]
# Writes down what Ray is asked for by the time it ends, with the study.
ASKED_AT_THE_END = """
import ray, faulty
end = ray.shutdown
def shutdown():
    try:
        coordinator = ray.get_actor("AutoscalingCoordinator", namespace="AutoscalingCoordinator")
    except Exception:
        return end()
    asked = ray.get(coordinator.__ray_call__.remote(lambda self: list(self._ongoing_reqs)))
    open("asked", "w").write(str(asked))
    end()
ray.shutdown = shutdown
from dmr.studies.cli.entry_point import main; main()
"""


@pytest.fixture(scope="module")
def two(tmp_path_factory, make_workplace):
    """A study of trials with two workers each, and the same trials with one worker, in one workplace."""
    place = make_workplace(tmp_path_factory.mktemp("workers")).with_faulty_method()
    place.command = (sys.executable, "-c", ASKED_AT_THE_END)
    for name, resources, trials in (("two", {"workers": 2, "cpus": 0.5}, 4), ("one", {"workers": 1, "cpus": 1}, 2)):
        place.write(
            name,
            model={"method": "faulty", "head_norm": "none", "encoder": {"name": "mlp", "width": 8}},
            search={
                "train.learning_rate": {"log_uniform": [1e-8, 1e-1]},
                "model.fault": {"choice": ["none", "kill_once", "error"]},
            },
            first=POINTS[:trials],
            scheduler={"name": "asha", "grace_epochs": 2, "reduction_factor": 2},
            budget={"trials": trials},
            resources=resources,
            retries=1,
            confirm={"top": 1, "seeds": 1} if name == "two" else None,
        )
        done = place.dmr("run", f"{name}.yaml", timeout=800.0)
        assert done.returncode == 0, done.stderr
    return place


@pytest.mark.timeout(900)
def test_each_trial_is_there_once_and_ends_as_it_should(two):
    trials, runs = two.optuna_trials("two"), two.mlflow_runs("two")
    states = [TrialState.COMPLETE, TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL]
    assert [trial.state for trial in trials] == states
    reasons = ["completed", "completed", "pruned", "error"]
    assert [run.data.tags["stop_reason"] for run in runs] == reasons
    text = two.client.download_artifacts(runs[3].info.run_id, "error.txt", str(two.path))
    assert 'raise KeyError("a fault on purpose")' in Path(text).read_text(encoding="utf-8")


@pytest.mark.timeout(900)
def test_every_epoch_is_there_once_with_what_one_worker_gives(two):
    """The second trial's worker is killed in the middle; the file's batches are of all workers together."""
    for one, other in zip(two.mlflow_runs("one"), two.mlflow_runs("two"), strict=False):
        expected, found = two.history(one), two.history(other)
        assert found.keys() == expected.keys()
        for name, points in expected.items():
            assert [step for step, _ in found[name]] == [step for step, _ in points], name
            assert [v for _, v in found[name]] == pytest.approx([v for _, v in points], rel=1e-3, abs=1e-6), name
    assert (two.path / "killed").exists()


@pytest.mark.timeout(900)
def test_the_confirmation_is_evaluated_on_test(two):
    for run in two.mlflow_runs("two", "confirm"):
        assert run.data.tags["stop_reason"] == "completed"
        assert 0.0 < run.data.metrics["best/test/accuracy_mean"] <= 1.0


@pytest.mark.timeout(900)
def test_ray_is_asked_for_nothing_when_the_trials_have_ended(two):
    """One was stopped, and its process cannot withdraw what it asked for."""
    assert (two.path / "asked").read_text() == "[]"
