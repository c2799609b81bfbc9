"""A study that is killed, interrupted and stopped, and goes on."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import time
from collections.abc import Callable

import psutil
import pytest
from optuna.trial import TrialState


DATABASE = "dmr_runs/small/optuna.db"


def wait_for(condition: Callable[[], object], seconds: float = 90.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, f"waited {seconds} s in vain"
        time.sleep(0.1)


def states(place) -> list[TrialState]:
    return [trial.state for trial in place.optuna_trials()] if (place.path / DATABASE).exists() else []


def epochs_of_running(place) -> int:
    """Epochs that trials which run now have reported."""
    trials = place.optuna_trials() if (place.path / DATABASE).exists() else []
    return sum(len(trial.intermediate_values) for trial in trials if trial.state == TrialState.RUNNING)


def slow_study(place, name: str = "small", **changes) -> None:
    place.with_faulty_method().write(
        name,
        model={"method": "faulty", "encoder": {"name": "mlp", "width": 4}, "slow": 0.4},
        search={"train.learning_rate": {"log_uniform": [1e-3, 1e-1]}, "sampling.keep_prob": {"uniform": [0.3, 0.9]}},
        **({"scheduler": {"name": "none"}, "train__epochs": 8} | changes),
    )


def assert_exact(place, trials: int, epochs: int | None, name: str = "small") -> None:
    """The budget, each trial once in Optuna and MLflow, each epoch from 0 once."""
    found = place.optuna_trials(name)
    assert len(found) == trials
    assert {trial.state for trial in found} <= {TrialState.COMPLETE, TrialState.PRUNED}
    assert len({tuple(sorted(trial.params.items())) for trial in found}) == trials
    runs = place.mlflow_runs(name)
    assert [int(run.data.tags["trial"]) for run in runs] == list(range(trials))
    assert {run.info.status for run in [*runs, *place.mlflow_runs(name, "study")]} == {"FINISHED"}
    for trial, run in zip(found, runs, strict=True):
        expected = list(range(trial.user_attrs["epochs"] if epochs is None else epochs))
        for metric, points in place.history(run).items():
            if not metric.startswith("best/"):
                assert [step for step, _ in points] == expected, f"trial {trial.number}: {metric}"
            else:
                assert len(points) == 1, f"trial {trial.number}: {metric}"
        assert trial.value == run.data.metrics["best/val/accuracy_mean"]


def kill(process: subprocess.Popen[str]) -> None:
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)


def trial_processes(driver: subprocess.Popen[str]) -> list[psutil.Process]:
    """Ray's processes that run trials."""
    found = []
    for process in psutil.Process(driver.pid).children(recursive=True):
        try:
            title = " ".join(process.cmdline())
        except psutil.Error:
            continue
        if title.startswith("ray::") and "IDLE" not in title:
            found.append(process)
    return found


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_driver_is_killed_six_times_and_the_study_ends_with_its_budget(workplace):
    slow_study(workplace, budget={"trials": 16})
    seed = random.SystemRandom().randrange(10**6)
    print(f"moments of the kills are drawn with seed {seed}")  # noqa: T201  # shown where the test fails
    draw = random.Random(seed)
    driver = workplace.start("run", "small.yaml")
    for _ in range(6):
        before = states(workplace).count(TrialState.COMPLETE)
        wait_for(
            lambda before=before: epochs_of_running(workplace) or states(workplace).count(TrialState.COMPLETE) > before
        )
        time.sleep(draw.uniform(0.0, 3.0))
        wait_for(lambda: TrialState.RUNNING in states(workplace))
        kill(driver)
        assert TrialState.RUNNING in states(workplace)
        driver = workplace.start("resume", "small")
    _, err = driver.communicate(timeout=300)
    assert driver.returncode == 0, err
    assert "study small is complete: 16 trials" in err
    assert_exact(workplace, 16, 8)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_trial_processes_are_killed_and_every_epoch_is_there_once(workplace):
    slow_study(workplace, budget={"trials": 6}, retries=5)
    driver = workplace.start("run", "small.yaml")
    killed = 0
    while killed < 4:
        wait_for(lambda: epochs_of_running(workplace) > 2)
        for process in trial_processes(driver)[:1]:
            process.kill()
            killed += 1
        time.sleep(4.0)
    _, err = driver.communicate(timeout=300)
    assert driver.returncode == 0, err
    assert_exact(workplace, 6, 8)


@pytest.mark.slow
def test_ctrl_c_stops_cleanly_and_says_how_to_go_on(workplace):
    slow_study(workplace, budget={"trials": 4})
    for command in (("run", "small.yaml"), ("resume", "small")):
        before = len(states(workplace))
        driver = workplace.start(*command)
        wait_for(lambda before=before: epochs_of_running(workplace) > (2 if before else 0))
        os.killpg(driver.pid, signal.SIGINT)
        _, err = driver.communicate(timeout=60)
        assert driver.returncode == 130, err
        assert err.strip().endswith("go on with: dmr resume small")
        assert "Traceback" not in err
        assert TrialState.RUNNING in states(workplace)
        assert "RUNNING" in {run.info.status for run in workplace.mlflow_runs()}
    workplace.run("resume", "small")
    assert_exact(workplace, 4, 8)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_interrupted_and_resumed_is_the_same_to_the_last_digit(workplace):
    changes = {
        "model": {"method": "dmrnet", "encoder": {"name": "mlp", "width": 8}, "warmup_epochs": 1},
        "train": {"epochs": 30, "batch_size": 4, "learning_rate": 0.01},
        "scheduler": {"name": "asha", "grace_epochs": 3},
        "budget": {"trials": 8},
        "resources": {"concurrent": 1},
    }
    workplace.write("whole", **changes)
    workplace.write("broken", **changes)
    workplace.run("run", "whole.yaml")
    driver = workplace.start("run", "broken.yaml")
    folder = workplace.path / "dmr_runs/broken/journal.jsonl"
    size = 0
    for _ in range(4):
        wait_for(
            lambda size=size: folder.exists() and folder.stat().st_size > size + 20_000 or driver.poll() is not None
        )
        size = folder.stat().st_size
        kill(driver)
        driver = workplace.start("resume", "broken")
    _, err = driver.communicate(timeout=300)
    assert driver.returncode == 0, err
    whole, broken = workplace.optuna_trials("whole"), workplace.optuna_trials("broken")
    for one, two in zip(whole, broken, strict=True):
        assert (one.params, one.state, one.values) == (two.params, two.state, two.values)
        assert one.intermediate_values == two.intermediate_values
    for one, two in zip(workplace.mlflow_runs("whole"), workplace.mlflow_runs("broken"), strict=True):
        assert workplace.history(one) == workplace.history(two)
        assert one.data.params == two.data.params
    assert_exact(workplace, 8, None, "broken")


def test_a_running_study_seen_and_stopped_from_another_shell(workplace):
    slow_study(workplace, budget={"trials": 2})
    driver = workplace.start("run", "small.yaml")
    wait_for(lambda: epochs_of_running(workplace))
    assert f"small: running (process {driver.pid}), 0 of 2 trials" in workplace.run("status", "small").stdout
    second = workplace.dmr("resume", "small")
    assert second.returncode == 2
    assert f"study 'small' is running in process {driver.pid}" in second.stderr
    assert workplace.dmr("rm", "small", "--yes").returncode == 2
    assert workplace.run("stop", "small").stdout == "small has stopped; go on with: dmr resume small\n"
    assert driver.wait(timeout=10) == 130
    assert "small: not running, 0 of 2 trials" in workplace.run("list").stdout
    assert workplace.run("stop", "small").stdout == "small is not running\n"
    workplace.run("resume", "small")
    assert_exact(workplace, 2, 8)
    raised = workplace.run("resume", "small", "--trials", "3")
    assert "study small is complete: 3 trials" in raised.stderr
    assert_exact(workplace, 3, 8)


def test_a_dead_driver_leaves_no_process_behind(workplace):
    slow_study(workplace)
    driver = workplace.start("run", "small.yaml")
    wait_for(lambda: epochs_of_running(workplace))
    started = psutil.Process(driver.pid).children(recursive=True)
    assert started
    kill(driver)
    workplace.run("list")
    wait_for(lambda: not [process for process in started if process.is_running()], 60.0)


def test_rm_asks_first_and_then_removes_folder_and_runs(workplace):
    workplace.write(budget={"trials": 1}, train__epochs=1)
    workplace.run("run", "small.yaml")
    asked = workplace.dmr("rm", "small")
    assert asked.returncode == 1
    assert "delete study small" in asked.stderr
    assert (workplace.path / "dmr_runs/small").exists()
    workplace.run("rm", "small", "--yes")
    assert not (workplace.path / "dmr_runs/small").exists()
    assert not workplace.mlflow_runs()
    workplace.run("run", "small.yaml")
    assert len(workplace.mlflow_runs()) == 1


def test_a_changed_study_file_is_reported_key_by_key(workplace):
    workplace.write(budget={"trials": 1}, train__epochs=1)
    workplace.run("run", "small.yaml")
    workplace.write(budget={"trials": 2}, train__epochs=2, seed=5, retries=1)
    refused = workplace.dmr("run", "small.yaml")
    assert refused.returncode == 2
    changed = re.findall(r"small.yaml: ([a-z.]+): was (\S+), is (\S+)", refused.stderr)
    assert changed == [("seed", "0", "5"), ("train.epochs", "1", "2")]
    workplace.write(budget={"trials": 2}, train__epochs=1, retries=1)
    workplace.run("run", "small.yaml")
    assert len(workplace.optuna_trials()) == 2
