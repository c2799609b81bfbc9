"""A study that is killed, interrupted and stopped, and goes on."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time

import psutil
import pytest
from optuna.trial import TrialState

pytestmark = pytest.mark.slow


def kill(process: subprocess.Popen[str]) -> None:
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)


def processes(driver: subprocess.Popen[str], title: str) -> list[psutil.Process]:
    """What the driver has started, by a part of its command line."""
    assert driver.poll() is None, driver.communicate()
    found = []
    for process in psutil.Process(driver.pid).children(recursive=True):
        try:
            if title in " ".join(process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


@pytest.mark.timeout(900)
def test_the_driver_is_killed_three_times_and_the_study_ends_with_its_budget(workplace):
    workplace.write_slow(budget={"trials": 10})
    driver = workplace.kill_at_drawn_moments(3, kill)
    workplace.wait_for(lambda: processes(driver, "ray::ImplicitFunc"))  # a Ray that dies before is started again
    for process in processes(driver, "raylet/raylet"):
        process.kill()
    driver.communicate(timeout=60)
    assert driver.returncode != 0
    driver = workplace.start("resume", "small")
    _, err = driver.communicate(timeout=300)
    assert driver.returncode == 0, err
    assert "study small is complete: 10 trials" in err
    workplace.assert_exact(10, 8)
    best = sorted(workplace.optuna_trials(), key=lambda trial: (-trial.values[0], trial.number))[:5]
    left = {(int(file.parent.name), file.stem) for file in workplace.path.glob("dmr_runs/small/trials/*/*.pt")}
    assert left == {(number, "best") for number in {0, *(trial.number for trial in best)}}  # 0: the file's defaults


@pytest.mark.long
@pytest.mark.timeout(900)
def test_trial_processes_are_killed_and_every_epoch_is_there_once(workplace):
    workplace.write_slow(budget={"trials": 6}, retries=5)
    driver = workplace.start("run", "small.yaml")
    killed = 0
    while killed < 4:
        workplace.wait_for(lambda: workplace.epochs_of_running() > 2)
        for process in processes(driver, "ray::ImplicitFunc")[:1]:
            process.kill()
            killed += 1
        time.sleep(4.0)
    _, err = driver.communicate(timeout=300)
    assert driver.returncode == 0, err
    workplace.assert_exact(6, 8)


def test_ctrl_c_stops_cleanly_and_says_how_to_go_on(workplace):
    objectives = [{"metric": "val/accuracy_mean"}, {"metric": "val/nll_mean"}]
    workplace.write_slow(budget={"trials": 4}, objective=objectives)
    for command in (("run", "small.yaml"), ("resume", "small")):
        before = workplace.epochs_of_running()
        driver = workplace.start(*command)
        workplace.wait_for(lambda before=before: workplace.epochs_of_running() > before)
        os.killpg(driver.pid, signal.SIGINT)
        _, err = driver.communicate(timeout=60)
        assert driver.returncode == 130, err
        assert err.strip().endswith("go on with: dmr resume small")
        assert "Traceback" not in err
        assert TrialState.RUNNING in workplace.states()
        assert "RUNNING" in {run.info.status for run in workplace.mlflow_runs()}
    workplace.run("resume", "small")
    workplace.assert_exact(4, 8)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("every", [1, pytest.param(3, marks=pytest.mark.long)])
def test_interrupted_and_resumed_is_the_same_to_the_last_digit(workplace, every):
    """With the evaluations between which it is killed, and what the scheduler makes of them."""
    changes = {
        "model": {"method": "dmrnet", "encoder": {"name": "mlp", "width": 8}, "warmup_epochs": 1},
        "train": {"epochs": 15, "batch_size": 4, "learning_rate": 0.01, "evaluate_every": every},
        "scheduler": {"name": "asha", "grace_epochs": 3},
        "budget": {"trials": 6},
        "resources": {"concurrent": 1},
    }
    workplace.write("whole", **changes)
    workplace.write("broken", **changes)
    workplace.run("run", "whole.yaml")
    driver = workplace.start("run", "broken.yaml")
    folder = workplace.path / "dmr_runs/broken/journal.jsonl"
    size = 0
    for _ in range(2):
        workplace.wait_for(lambda size=size: folder.exists() and folder.stat().st_size > size + 8_000)
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
    workplace.assert_exact(6, None, "broken")


def test_a_running_study_seen_and_stopped_from_another_shell(workplace):
    hold = workplace.path / "trace.hold"  # keeps the trials in their epochs, however long the commands take
    workplace.write_slow(budget={"trials": 2}, model__slow=1.0, model__trace=str(hold.with_suffix("")))
    driver = workplace.start("run", "small.yaml")
    workplace.wait_for(lambda: workplace.epochs_of_running())
    hold.touch()
    assert f"small: running (process {driver.pid}), 0 of 2 trials" in workplace.run("status", "small").stdout
    second = workplace.dmr("resume", "small")
    assert second.returncode == 2
    assert f"study 'small' is running in process {driver.pid}" in second.stderr
    assert workplace.dmr("rm", "small", "--yes").returncode == 2
    assert workplace.run("stop", "small").stdout == "small has stopped; go on with: dmr resume small\n"
    assert driver.wait(timeout=10) == 130
    hold.unlink()
    assert "small: not running, 0 of 2 trials" in workplace.run("list").stdout
    assert workplace.run("stop", "small").stdout == "small is not running\n"
    workplace.run("resume", "small")
    workplace.assert_exact(2, 8)
    raised = workplace.run("resume", "small", "--trials", "3")
    assert "study small is complete: 3 trials" in raised.stderr
    workplace.assert_exact(3, 8)


def test_a_dead_driver_leaves_no_process_behind(workplace):
    workplace.write_slow()
    driver = workplace.start("run", "small.yaml")
    workplace.wait_for(lambda: workplace.epochs_of_running())
    started = psutil.Process(driver.pid).children(recursive=True)
    assert started
    kill(driver)
    workplace.run("list")
    workplace.wait_for(lambda: not [process for process in started if process.is_running()], 60.0)


def test_a_changed_file_is_reported_key_by_key_and_rm_asks_first_and_then_removes_folder_and_runs(workplace):
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
    asked = workplace.dmr("rm", "small")
    assert asked.returncode == 1
    assert "delete study small" in asked.stderr
    assert (workplace.path / "dmr_runs/small").exists()
    workplace.run("rm", "small", "--yes")
    assert not (workplace.path / "dmr_runs/small").exists()
    assert not workplace.mlflow_runs()
    workplace.run("run", "small.yaml", "--trials", "1")
    assert len(workplace.mlflow_runs()) == 1
