"""A search in blocks and its confirmation on test, through the command line; the driver is killed on the way."""

from __future__ import annotations

import csv
import io
import json
import os
import signal

import numpy as np
import pytest

from dmr.combinations import all_combinations
from dmr.data import DataRecipe

pytestmark = pytest.mark.slow
NAMES = all_combinations(("ecg", "motion", "skin")).names
SEARCH = [
    {"name": "plain", "train.learning_rate": {"log_uniform": [1e-3, 1e-1]}},
    {"name": "fixed", "train.optimizer": "sgd", "train.learning_rate": {"choice": [0.01, 0.1]}},
]


def confirm_epochs(place) -> int:
    journal = place.path / "dmr_runs/small/journal.jsonl"
    lines = journal.read_text().splitlines(keepends=True) if journal.exists() else []
    records = [json.loads(line) for line in lines if line.endswith("\n")]
    return sum(record["op"] == "metrics" and record["key"].startswith("confirm/") for record in records)


@pytest.fixture(scope="module")
def confirmed(tmp_path_factory, make_workplace):
    """Two blocks of two trials each, confirmed with a seed by a driver that was killed, then with two."""
    place = make_workplace(tmp_path_factory.mktemp("confirmed"))
    changes = {"search": SEARCH, "confirm": {"top": 1, "seeds": 1}, "train__epochs": 4, "model__slow": 0.2}
    place.write_slow(**changes)
    driver = place.start("run", "small.yaml")
    place.wait_for(lambda: confirm_epochs(place) > 1 or driver.poll() is not None)
    os.kill(driver.pid, signal.SIGKILL)
    driver.communicate(timeout=60)
    place.stopped = place.run("status", "small").stdout
    place.shown = place.run("confirm", "small", "--seeds", "2")
    return place


def test_a_killed_confirmation_goes_on_and_every_run_is_there_once(confirmed):
    assert "small: not running, 4 of 4 trials, 0 of " in confirmed.stopped
    confirmed.assert_exact(4, 4)
    runs = confirmed.mlflow_runs(stage="confirm")
    identities = sorted((run.data.tags["method"], int(run.data.tags["trial"]), run.data.tags["seed"]) for run in runs)
    trials = {method: {trial for m, trial, _ in identities if m == method} for method in ("plain", "fixed")}
    assert identities == sorted((m, trial, seed) for m in trials for trial in trials[m] for seed in ("1", "2"))
    assert {0} <= trials["plain"] <= {0, 2}
    assert {1} <= trials["fixed"] <= {1, 3}
    for run in runs:
        assert (run.info.status, run.data.tags["stop_reason"]) == ("FINISHED", "completed")
        history = confirmed.history(run)
        assert [step for step, _ in history["val/accuracy_mean"]] == [0, 1, 2, 3]
        assert all(len(points) == 1 for name, points in history.items() if name.startswith("best/"))
    assert len({run.data.metrics["train/loss"] for run in runs}) == len(runs)


def test_only_the_confirmation_has_values_on_test(confirmed):
    for run in confirmed.mlflow_runs():
        assert not any("test" in name for name in run.data.metrics)
    for run in confirmed.mlflow_runs(stage="confirm"):
        each = [run.data.metrics[f"best/test/accuracy/{name}"] for name in NAMES]
        assert sum(each) / 7 == pytest.approx(run.data.metrics["best/test/accuracy_mean"])
        folder = confirmed.client.download_artifacts(run.info.run_id, "")
        with np.load(f"{folder}/samples.npz") as samples:
            assert tuple(samples["combinations"]) == NAMES
            assert samples["scores"].shape == (7, 40)
            assert samples["scores"].mean(axis=1) == pytest.approx(each)
        with open(f"{folder}/combinations.csv", newline="") as file:
            rows = list(csv.DictReader(file))
        assert {(row["split"], row["metric"]) for row in rows} >= {
            ("val", "nll"),
            ("test", "nll"),
            ("test", "accuracy"),
        }
    table = csv.DictReader(io.StringIO(confirmed.run("table", "small", "--stage", "confirm").stdout))
    assert {(row["split"], row["stage"]) for row in table} == {("val", "confirm"), ("test", "confirm")}


def test_gone_on_with_again_it_says_complete_and_shows_both_tables(confirmed):
    again = confirmed.run("resume", "small")
    assert again.stdout == confirmed.shown.stdout
    assert "best 4 of 4 trials" in again.stdout
    runs = confirmed.mlflow_runs(stage="confirm")
    assert f"study small is complete: 4 trials, {len(runs)} confirm runs" in again.stderr
    (title,) = [line for line in again.stdout.splitlines() if "confirmed on test" in line]
    assert "accuracy over all 7 combinations" in title
    mean = np.mean([r.data.metrics["best/test/accuracy_mean"] for r in runs if r.data.tags["trial"] == "0"])
    plain = [line for line in again.stdout.splitlines() if line.startswith("plain ")]
    assert sum(f" {mean:.4f} " in line for line in plain) == 1
    assert f"confirm: {len(runs)} completed" in confirmed.run("status", "small").stdout


def test_a_search_that_is_not_complete_is_not_confirmed(confirmed):
    document = confirmed.path / "dmr_runs/small/study.yaml"
    whole = document.read_text()
    document.write_text(whole.replace("trials: 4", "trials: 5"))
    refused = confirmed.dmr("confirm", "small")
    document.write_text(whole)
    assert refused.returncode == 2
    assert refused.stderr == "small: the search is not complete; go on with: dmr resume small\n"


def test_each_seed_with_data_of_its_own_in_a_factorial_study(make_workplace, tmp_path):
    """The split of the digits, their wrong labels and what is missing follow the seed; `evaluate` finds them again."""
    place = make_workplace(tmp_path)
    options = {"train": 60, "label_noise": 0.2}
    study = {
        "dataset": {"name": "digits"} | options,
        "missing": {"test": 0.3},
        "search": {"grid": {"model.head_norm": ["none", "batch"]}},
        "budget": {"trials": 2},
        "scheduler": {"name": "none"},
        "train__epochs": 1,
        "model": {"encoder": {"name": "mlp", "width": 4}},
    }
    place.write(**study, confirm={"seeds": 2, "redraw": True})
    place.run("run", "small.yaml")
    assert "each seed has data of its own" in place.run("compare", "small").stderr
    runs = place.mlflow_runs(stage="confirm")
    assert sorted((run.data.tags["method"], run.data.tags["seed"]) for run in runs) == [
        (f"head_norm-{norm}", seed) for norm in ("batch", "none") for seed in "12"
    ]
    for run in runs[:2]:
        text = place.run("evaluate", run.info.run_id, "--split", "test", "--format", "csv").stdout
        rows = {row["combination"]: row for row in csv.DictReader(io.StringIO(text))}
        for name, row in rows.items():
            assert float(row["accuracy"]) == pytest.approx(run.data.metrics[f"best/test/accuracy/{name}"], abs=1e-6)
        drawn = DataRecipe("digits", options | {"seed": 0}, {"test": 0.3}, 0).draw(int(run.data.tags["seed"]))
        assert float(rows["top_left"]["samples"]) == drawn.splits["test"].has()[:, 0].sum()
    shown = place.run("compare", "small", "--factors", "model.head_norm", "-o", "effects")
    assert "main effects on accuracy on test" in shown.stdout
    with open(place.path / "effects/effects.csv", newline="") as file:
        effects = {row["outcome"]: row for row in csv.DictReader(file) if row["settings"] == "tuned"}
    full = {
        (run.data.tags["method"], run.data.tags["seed"]): run.data.metrics["best/test/accuracy_full"] for run in runs
    }
    gain = [full["head_norm-batch", seed] - full["head_norm-none", seed] for seed in "12"]
    assert float(effects["full"]["estimate"]) == pytest.approx(sum(gain) / 2, abs=1e-6)
    assert {path.name for path in (place.path / "effects").iterdir()} == {
        "effects.csv",
        "effects.png",
        "effects_by_combination.csv",
        "effects_by_combination_small.png",
    }
    wrong = place.dmr("compare", "small", "--factors", "model.draws")
    assert (wrong.returncode, wrong.stderr) == (2, "model.draws: no factor; `search.grid` has model.head_norm\n")
    place.write(**study, confirm={"seeds": 2})
    refused = place.dmr("run", "small.yaml")
    assert refused.returncode == 2
    line = "confirm.redraw: was true, is false: the study has confirm runs; put it back, or give the study another name"
    assert line in refused.stderr
