"""A study through the command line alone, on a folder in the `arrays` layout."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import signal
import socket
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient
from optuna.trial import TrialState
from typer.testing import CliRunner

from dmr.combinations import all_combinations
from dmr.studies.cli.entry_point import app

NAMES = all_combinations(("ecg", "motion", "skin")).names


def test_a_study_leaves_a_heatmap_and_one_parent_with_a_child_a_trial(finished):
    assert (finished.path / "dmr_runs/small/heatmap.png").read_bytes().startswith(b"\x89PNG")
    (parent,) = finished.mlflow_runs(stage="study")
    children = finished.mlflow_runs()
    assert [int(child.data.tags["trial"]) for child in children] == [0, 1, 2, 3]
    assert {child.data.tags["mlflow.parentRunId"] for child in children} == {parent.info.run_id}
    assert {run.info.status for run in [parent, *children]} == {"FINISHED"}
    assert {child.data.tags["stop_reason"] for child in children} == {"completed"}
    figures = {artifact.path for artifact in finished.client.list_artifacts(parent.info.run_id)}
    assert {"heatmap.png", "study.yaml", "report.html", "trials.png", "pareto.png"} <= figures
    assert parent.info.run_name == "small"


def test_every_epoch_is_there_once_and_the_best_one_is_kept(finished):
    for child in finished.mlflow_runs():
        history = finished.history(child)
        for name in ("train/loss", "train/kl", "val/accuracy_mean", "val/accuracy_worst", "val/accuracy_full"):
            assert [step for step, _ in history[name]] == [0, 1, 2, 3], name
        values = dict(history["val/accuracy_mean"])
        best = int(child.data.metrics["best/epoch"])
        assert values[best] == max(values.values())
        assert child.data.metrics["best/val/accuracy_mean"] == values[best]
        each = [child.data.metrics[f"best/val/accuracy/{name}"] for name in NAMES]
        assert math.isclose(sum(each) / 7, values[best])
        assert math.isclose(min(each), child.data.metrics["best/val/accuracy_worst"])


def test_parameters_lie_under_dotted_keys_and_agree_with_optuna(finished):
    for child, trial in zip(finished.mlflow_runs(), finished.optuna_trials(), strict=True):
        assert trial.state == TrialState.COMPLETE
        assert trial.value == child.data.metrics["best/val/accuracy_mean"]
        for key, value in trial.params.items():
            assert child.data.params[key] == str(value)
        assert float(child.data.params["log10_model.prior_std"]) == pytest.approx(
            math.log10(trial.params["model.prior_std"])
        )
        assert child.data.params["train.epochs"] == "4"


def test_the_first_trial_has_the_files_defaults(finished):
    first = finished.optuna_trials()[0]
    assert first.params == {"model.prior_std": 1.0, "model.kl_weight": 1e-3, "sampling.strategy": "uniform"}


def test_a_conditional_parameter_is_there_where_its_condition_holds(finished):
    strategies = set()
    for trial in finished.optuna_trials():
        strategies.add(trial.params["sampling.strategy"])
        assert ("sampling.keep_prob" in trial.params) == (trial.params["sampling.strategy"] == "bernoulli")
    assert "bernoulli" in strategies


def test_run_again_says_complete_and_changes_nothing(finished):
    before = [trial.params for trial in finished.optuna_trials()]
    again = finished.run("run", "small.yaml")
    assert "study small is complete: 4 trials" in again.stderr
    assert "best 4 of 4 trials" in again.stdout
    assert [trial.params for trial in finished.optuna_trials()] == before
    assert len(finished.mlflow_runs()) == 4
    assert {run.info.status for run in finished.mlflow_runs(stage="study")} == {"FINISHED"}


def test_the_screen_shows_no_engine_noise(finished):
    lines = finished.said.strip().splitlines()
    assert lines[0] == "random search: tpe proposes its first 10 trials at random, and the budget is 4 trials"
    assert [line.split(" trials")[0] for line in lines[1:5]] == ["1/4", "2/4", "3/4", "4/4"]
    assert lines[5] == "study small is complete: 4 trials"
    assert len(lines) == 9


def test_a_local_ray_leaves_nothing(finished):
    assert finished.left_by_ray == []


def test_table_heatmap_list_and_status(finished):
    rows = list(csv.DictReader(io.StringIO(finished.run("table", "small").stdout)))
    assert {row["combination"] for row in rows} == {"", *NAMES}
    children = {child.data.tags["trial"]: child for child in finished.mlflow_runs()}
    for row in rows:
        suffix = f"/{row['combination']}" if row["combination"] else ""
        metrics = children[row["trial"]].data.metrics
        assert float(row["value"]) == metrics[f"best/{row['split']}/{row['metric']}{suffix}"]
        assert row["model.prior_std"] == children[row["trial"]].data.params["model.prior_std"]
    everything = json.loads(finished.run("table", "small", "--metrics", "all", "--format", "json").stdout)
    assert {row["metric"] for row in everything if row["combination"]} == {"accuracy", "macro_f1", "nll", "ece"}
    svg = finished.run("heatmap", "small", "-o", "h.svg", "--top", "2").stdout.strip()
    assert "<svg" in (finished.path / svg).read_text()
    assert "small: complete, 4 of 4 trials" in finished.run("list").stdout
    assert "trials: 4 completed" in finished.run("status", "small").stdout


def test_figures_are_drawn_or_it_is_said_why_not(finished, tmp_path):
    storage = ["--storage", str(finished.path / "dmr_runs")]
    done = CliRunner().invoke(app, ["figures", "small", "-o", str(tmp_path / "drawn"), "--format", "svg", *storage])
    assert done.exit_code == 0, done.output
    drawn = {Path(line).stem for line in done.stdout.splitlines()}
    assert drawn == {"methods", "trials", "trials_difference", "tuning_curves", "pareto", "rates", "variance"}
    assert {path.name for path in (tmp_path / "drawn").iterdir()} == {f"{name}.svg" for name in drawn}
    assert "<svg" in (tmp_path / "drawn/variance.svg").read_text()
    reasons = done.stderr.splitlines()
    assert [line.split(": not drawn: ")[0] for line in reasons] == ["methods_difference", "parameters", "classes"]
    assert "4 trials with values; to say what a parameter does takes 8" in reasons[1]


@pytest.mark.parametrize(
    ("reference", "message"),
    [("0", None), ("defaults", None), ("9", "trial 9 has no values"), ("best", "--difference-to best: allowed are")],
)
def test_the_heatmap_of_differences(finished, tmp_path, reference, message):
    where = ["--storage", str(finished.path / "dmr_runs"), "-o", str(tmp_path / "h.pdf")]
    done = CliRunner().invoke(app, ["heatmap", "small", "--difference-to", reference, *where])
    assert done.exit_code == (0 if message is None else 2), done.output
    assert (tmp_path / "h.pdf").exists() == (message is None)
    assert message is None or message in done.stderr


def test_train_runs_once_without_a_search(workplace):
    workplace.write()
    first = workplace.run("train", "small.yaml")
    assert "ecg-motion-skin" in first.stdout
    (run,) = workplace.mlflow_runs(stage="train")
    assert run.info.status == "FINISHED"
    assert f"run: {run.info.run_id}" in first.stderr.splitlines()
    assert [step for step, _ in workplace.history(run)["val/accuracy_mean"]] == [0, 1, 2, 3]
    again = workplace.run("train", "small.yaml")
    assert again.stdout == first.stdout
    assert len(workplace.mlflow_runs(stage="train")) == 1


def test_dry_run_shows_the_study_and_leaves_nothing(workplace):
    workplace.write()
    shown = workplace.run("run", "small.yaml", "--dry-run", "--set", "train.epochs=9").stdout
    assert "epochs: 9" in shown
    assert "sampling.keep_prob: uniform [0.3, 0.9]  when sampling.strategy is bernoulli" in shown
    assert "combinations evaluated: 7 of 7" in shown
    assert "random search: tpe proposes its first 10 trials at random, and the budget is 4 trials" in shown
    assert "small: a batch was trained on the CPU: loss " in shown
    assert {entry.name for entry in workplace.path.iterdir()} == {"sensors", "small.yaml", "mlflow.db"}


def test_trials_that_are_evaluated_every_third_epoch_are_stopped_by_their_epochs(workplace):
    """The last one cannot learn. Its epochs, those without values too, are counted, shown and told to Optuna."""
    workplace.write(
        search={"train.learning_rate": {"log_uniform": [1e-8, 1e-1]}},
        first=[{"train.learning_rate": rate} for rate in (0.03, 0.02, 0.01, 1e-8)],
        scheduler={"name": "median", "grace_epochs": 5, "metric": "val/ece_mean"},
        resources={"concurrent": 1},
        train__epochs=9,
        train__evaluate_every=3,
    )
    workplace.run("run", "small.yaml")
    workplace.assert_exact(4, None)
    children = workplace.mlflow_runs()
    assert [int(child.data.tags["epochs"]) for child in children] == [9, 9, 9, 5]
    assert [child.data.tags["stop_reason"] for child in children] == [*3 * ["completed"], "pruned"]
    for child, trial in zip(children, workplace.optuna_trials(), strict=True):
        assert trial.user_attrs["epochs"] == int(child.data.tags["epochs"])
        values = dict(workplace.history(child)["val/accuracy_mean"])
        assert [*values] == [epoch for epoch in (0, 3, 6, 8) if epoch < trial.user_attrs["epochs"]]
        assert "val/ece_mean" in workplace.history(child)  # the scheduler's
        assert "val/macro_f1_mean" not in workplace.history(child)
        assert 0.0 <= child.data.metrics["best/val/macro_f1_mean"] <= 1.0
        for epoch, value in trial.intermediate_values.items():
            assert value == max(v for step, v in values.items() if step <= epoch)
    epochs = {row["trial"]: row for row in csv.DictReader(io.StringIO(workplace.run("table", "small").stdout))}
    assert set(epochs) == {"0", "1", "2", "3"}


@pytest.mark.slow
def test_the_median_stops_trials_of_cmaes(workplace):
    workplace.write(
        sampler="cmaes",
        scheduler={"name": "median", "grace_epochs": 3},
        search={
            "model.prior_std": {"log_uniform": [0.1, 3.0]},
            "model.noise_scale": {"uniform": [0.0, 2.0]},
            "train.learning_rate": {"log_uniform": [1e-6, 1e-1]},
        },
        train__epochs=9,
        budget={"trials": 9},
    )
    workplace.run("run", "small.yaml")
    trials = workplace.optuna_trials()
    assert {trial.state for trial in trials} <= {TrialState.COMPLETE, TrialState.PRUNED}
    assert len({tuple(trial.params.values()) for trial in trials}) == len(trials)
    pruned = [trial for trial in trials if trial.state == TrialState.PRUNED]
    for trial, child in zip(trials, workplace.mlflow_runs(), strict=True):
        epochs = [step for step, _ in workplace.history(child)["train/loss"]]
        assert epochs == list(range(trial.user_attrs["epochs"]))
        assert child.data.tags["stop_reason"] == ("pruned" if trial in pruned else "completed")
        if trial in pruned:
            running_best = max(trial.intermediate_values.values())
            assert 3 <= len(epochs) < 9
            assert child.data.metrics["best/val/accuracy_mean"] == running_best


@pytest.mark.slow
def test_grid_runs_every_point_once_and_then_stops(workplace):
    workplace.write(
        sampler="grid",
        search={"model.draws": {"int": [1, 3]}, "sampling.strategy": {"choice": ["uniform", "by_size"]}},
        budget={"trials": 10},
        train__epochs=2,
    )
    done = workplace.run("run", "small.yaml")
    points = {(t.params["model.draws"], t.params["sampling.strategy"]) for t in workplace.optuna_trials()}
    assert points == {(draws, strategy) for draws in (1, 2, 3) for strategy in ("uniform", "by_size")}
    assert len(workplace.optuna_trials()) == 6
    assert "every point of the search space was tried" in done.stderr


@pytest.mark.slow
def test_two_objectives_with_asha_on_one_of_them(workplace):
    workplace.write(
        objective=[{"metric": "val/accuracy_mean"}, {"metric": "val/nll_full"}],
        scheduler={"name": "asha", "grace_epochs": 3, "metric": "val/accuracy_mean"},
        sampler="nsga2",
        search={"train.learning_rate": {"log_uniform": [1e-7, 1e-1]}},
        train__epochs=9,
        budget={"trials": 8},
    )
    workplace.run("run", "small.yaml")
    children = workplace.mlflow_runs()
    assert {child.data.tags["stop_reason"] for child in children} == {"completed", "pruned"}
    for trial, child in zip(workplace.optuna_trials(), children, strict=True):
        assert trial.state == TrialState.COMPLETE
        names = ("best/val/accuracy_mean", "best/val/nll_full")
        assert trial.values == [child.data.metrics[name] for name in names]


@pytest.mark.slow
def test_a_trial_after_others_in_the_same_process_is_the_same_trial_alone_to_the_last_digit(workplace):
    """That a whole study is the same twice is in test_resume.py."""
    point = {
        "model.prior_std": 0.7,
        "model.kl_weight": 1e-3,
        "sampling.strategy": "bernoulli",
        "sampling.keep_prob": 0.5,
    }
    for name, first in (("last", ["defaults", point]), ("alone", [point])):
        budget = {"trials": len(first)}
        workplace.write(name, resources={"concurrent": 1}, scheduler={"name": "none"}, first=first, budget=budget)
        workplace.run("run", f"{name}.yaml")
    _, last = workplace.mlflow_runs("last")
    (alone,) = workplace.mlflow_runs("alone")
    assert alone.data.params == last.data.params
    assert workplace.history(alone) == workplace.history(last)


def test_ui_serves_this_projects_store_on_this_machine(finished):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = finished.start("ui", "--port", port)
    try:
        finished.wait_for(lambda: not socket.socket().connect_ex(("127.0.0.1", port)))
        runs = MlflowClient(f"http://127.0.0.1:{port}").search_runs(["1"], "tags.study = 'small'")
        assert len(runs) == 5
    finally:
        os.killpg(server.pid, signal.SIGINT)
        _, err = server.communicate(timeout=30)
    assert f"http://127.0.0.1:{port}" in err
    assert socket.socket().connect_ex(("127.0.0.1", port))
