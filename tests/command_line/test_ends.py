"""How a trial ends: the table of the design, through `dmr run`, with one and with two objectives."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from optuna.trial import TrialState

pytestmark = pytest.mark.slow

OBJECTIVES = {
    "one": [{"metric": "val/accuracy_mean"}],
    "two": [{"metric": "val/accuracy_mean"}, {"metric": "val/nll_mean"}],
}
FAULTS = ("none", "nan", "memory", "error", "kill", "kill_once", "hang")


def faulty(workplace, objectives="one", **changes):
    changes = {
        "first": [],
        "scheduler": {"name": "none"},
        "budget": {"trials": 1},
        "resources": {"concurrent": 1},
    } | changes
    workplace.with_faulty_method().write(
        objective=OBJECTIVES[objectives],
        model={"method": "faulty", "encoder": {"name": "mlp", "width": 4}},
        **changes,
    )


@pytest.fixture(scope="module", params=["one", pytest.param("two", marks=pytest.mark.long)])
def failing(request, tmp_path_factory, make_workplace):
    """A study with a trial of every fault; yields the workplace, its screen, and the fault's position."""
    from types import SimpleNamespace

    place = make_workplace(tmp_path_factory.mktemp(f"faults_{request.param}"))
    faulty(
        place,
        request.param,
        search={"model.fault": {"choice": list(FAULTS)}},
        first=[{"model.fault": fault} for fault in FAULTS],
        budget={"trials": len(FAULTS)},
        retries=1,
        train__epoch_minutes=0.15,
    )
    done = place.dmr("run", "small.yaml")
    assert done.returncode == 0, done.stderr
    trials = {trial.params["model.fault"]: trial for trial in place.optuna_trials()}
    runs = {run.data.params["model.fault"]: run for run in place.mlflow_runs()}
    return SimpleNamespace(place=place, screen=done.stderr, trials=trials, runs=runs)


@pytest.mark.parametrize(
    ("fault", "reason"),
    [("nan", "diverged"), ("memory", "out_of_memory"), ("error", "error"), ("kill", "lost"), ("hang", "lost")],
)
def test_a_trial_that_goes_wrong_fails_with_its_reason(failing, fault, reason):
    trial, run = failing.trials[fault], failing.runs[fault]
    assert trial.state == TrialState.FAIL
    assert run.info.status == "FAILED"
    assert run.data.tags["stop_reason"] == trial.user_attrs["stop_reason"] == reason
    assert [step for step, _ in failing.place.history(run)["val/accuracy_mean"]] == [0, 1]
    assert f"trial {trial.number} {reason}" in failing.screen


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        ("nan", "epoch 2: 4 of 4 steps were not finite"),
        ("memory", "CUDA out of memory"),
        ("error", 'raise KeyError("a fault on purpose")'),
        ("hang", "faulty.py"),
        ("kill", "its process died"),
    ],
)
def test_the_reason_is_an_artifact(failing, fault, text, tmp_path):
    run = failing.runs[fault]
    file = failing.place.client.download_artifacts(run.info.run_id, "error.txt", str(tmp_path))
    assert text in Path(file).read_text(encoding="utf-8")


@pytest.mark.parametrize("fault", ["none", "kill_once"])
def test_the_study_goes_on_and_a_killed_trial_goes_on_from_its_last_epoch(failing, fault):
    trial, run = failing.trials[fault], failing.runs[fault]
    assert trial.state == TrialState.COMPLETE
    assert run.info.status == "FINISHED"
    assert run.data.tags["stop_reason"] == "completed"
    whole = failing.place.history(failing.runs["none"])
    assert failing.place.history(run) == whole
    assert [step for step, _ in whole["train/loss"]] == [0, 1, 2, 3]


def test_failed_trials_are_a_line_and_no_trial_is_lost(failing):
    assert f"5 of {len(FAULTS)} trials failed" in failing.screen
    assert len(failing.trials) == len(failing.runs) == len(FAULTS)
    assert "Traceback" not in failing.screen
    left = {int(file.parent.name): file.stem for file in failing.place.path.glob("dmr_runs/small/trials/*/*.pt")}
    assert left == {failing.trials[fault].number: "best" for fault in ("none", "kill_once")}


@pytest.mark.parametrize("objectives", ["one", pytest.param("two", marks=pytest.mark.long)])
def test_the_time_budget_ends_running_trials(workplace, objectives):
    faulty(workplace, objectives, search={}, train__epochs=1000, model__slow=0.5, budget={"trials": 2, "minutes": 0.5})
    done = workplace.dmr("run", "small.yaml")
    (trial,) = workplace.optuna_trials()
    (run,) = workplace.mlflow_runs()
    assert trial.state == (TrialState.PRUNED if objectives == "one" else TrialState.COMPLETE)
    assert run.info.status == "FINISHED"
    assert run.data.tags["stop_reason"] == "time_budget"
    values = [value for _, value in workplace.history(run)["val/accuracy_mean"]]
    assert run.data.metrics["best/val/accuracy_mean"] == max(values)
    if objectives == "one":
        assert list(trial.intermediate_values.values()) == [max(values[: n + 1]) for n in range(len(values))]
    else:
        assert trial.values[0] == max(values)
    assert done.returncode == 0
    assert "time budget" in done.stderr


def test_the_time_budget_before_the_first_epoch(workplace):
    faulty(workplace, search={}, model__slow=60.0, budget={"trials": 2, "minutes": 0.02})
    done = workplace.dmr("run", "small.yaml")
    (trial,) = workplace.optuna_trials()
    (run,) = workplace.mlflow_runs()
    assert trial.state == TrialState.FAIL
    assert run.info.status == "KILLED"
    assert run.data.tags["stop_reason"] == "time_budget"
    assert done.returncode == 1
    assert "no trial succeeded" in done.stderr


@pytest.mark.parametrize("objectives", ["one", pytest.param("two", marks=pytest.mark.long)])
def test_a_pruned_trial(workplace, objectives):
    """The last two cannot learn, and are stopped after their grace."""
    faulty(
        workplace,
        objectives,
        search={"train.learning_rate": {"log_uniform": [1e-8, 1e-1]}},
        first=[{"train.learning_rate": rate} for rate in (0.03, 0.02, 0.01, 1e-8, 2e-8)],
        scheduler={"name": "median", "grace_epochs": 3, "metric": "val/accuracy_mean"},
        budget={"trials": 5},
        train__epochs=8,
    )
    workplace.run("run", "small.yaml")
    pruned = [n for n, run in enumerate(workplace.mlflow_runs()) if run.data.tags["stop_reason"] == "pruned"]
    assert pruned == [3, 4]
    for number in pruned:
        trial, run = workplace.optuna_trials()[number], workplace.mlflow_runs()[number]
        assert trial.state == (TrialState.PRUNED if objectives == "one" else TrialState.COMPLETE)
        assert run.info.status == "FINISHED"
        assert all(math.isfinite(value) for value in run.data.metrics.values())


def test_a_study_in_which_every_trial_fails_exits_with_1(workplace):
    faulty(workplace, model__fault="error", search={"model.slow": {"choice": [0.0, 0.01]}}, budget={"trials": 2})
    done = workplace.dmr("run", "small.yaml")
    assert done.returncode == 1
    traceback = workplace.path / "dmr_runs/small/trials/0000/error.txt"
    assert f"2 of 2 trials failed: 0, 1; the first one's traceback: {traceback}" in done.stderr
    assert "Traceback (most recent call last)" in traceback.read_text()
    assert "no trial succeeded" in done.stderr


@pytest.mark.parametrize(("fault", "reason"), [("nan", "diverged"), ("memory", "out_of_memory"), ("error", "error")])
def test_one_training_run_that_goes_wrong(workplace, fault, reason):
    faulty(workplace, model__fault=fault, search={"model.slow": {"uniform": [0.0, 1.0]}}, first=[{"model.slow": 0.5}])
    done = workplace.dmr("train", "small.yaml")
    (run,) = workplace.mlflow_runs(stage="train")
    assert done.returncode == 1
    assert f"small: {reason}: " in done.stderr
    assert "Traceback" not in done.stderr
    assert run.info.status == "FAILED"
    assert run.data.tags["stop_reason"] == reason
    lines = done.stderr.splitlines()
    assert f"run: {run.info.run_id}" in lines
    (traceback,) = [line.removeprefix("traceback: ") for line in lines if line.startswith("traceback: ")]
    assert "Traceback (most recent call last)" in Path(traceback).read_text()
