"""A study begun at commit ddb979a, when `studies` and `analysis` were packages of their own, goes on with today's code.

`stored_study/small.tar.xz` was written by that commit, with `dmr run` (one trial at a time, stopped by Ctrl-C in the
second trial's second epoch) and `dmr train`, in the directory `MADE_IN`. The places in it are those of that directory.
"""

from __future__ import annotations

import shutil
import sqlite3
import tarfile
from pathlib import Path
from typing import Any

import mlflow
import pytest
from optuna.trial import TrialState

STORED = Path(__file__).with_name("stored_study") / "small.tar.xz"
MADE_IN = "/tmp/dmr-stored-study"
DATABASES = {
    "runs": ["artifact_uri"],
    "tags": ["value"],
    "experiments": ["artifact_location"],
    "logged_models": ["artifact_location"],
    "logged_model_tags": ["tag_value"],
}


def unpack(folder: Path) -> None:
    """The stored directory, as if it had been made in this one."""
    with tarfile.open(STORED) as archive:
        archive.extractall(folder, filter="data")
    for name in ("places.json", "journal.jsonl"):
        for file in folder.glob(f"dmr_runs/small/**/{name}"):
            file.write_text(file.read_text().replace(MADE_IN, str(folder)))
            if name == "journal.jsonl":  # all of it was in MLflow
                file.with_suffix(".shipped").write_text(str(file.stat().st_size))
    with sqlite3.connect(folder / "mlflow.db") as database:
        for table, columns in DATABASES.items():
            for column in columns:
                database.execute(f"UPDATE {table} SET {column} = replace({column}, ?, ?)", (MADE_IN, str(folder)))
    database.close()


@pytest.fixture
def stored(workplace: Any) -> Any:
    for entry in workplace.path.iterdir():
        shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
    unpack(workplace.path)
    return workplace


@pytest.mark.slow
def test_a_study_of_an_earlier_version_is_read_goes_on_and_is_exported(stored: Any) -> None:
    assert stored.run("list").stdout.splitlines() == ["small: not running, 1 of 4 trials"]
    assert "trials: 1 completed, 1 running" in stored.run("status", "small").stdout
    (trained,) = stored.mlflow_runs(stage="train")
    before = {run.data.tags["trial"]: run for run in stored.mlflow_runs()}
    kept = dict(stored.history(before["1"])["val/accuracy_mean"])
    assert list(kept) == [0]
    params = {trial.number: trial.params for trial in stored.optuna_trials()}

    for run, trial in ((before["0"], "0"), (trained, "train")):
        rows = stored.run("evaluate", run.info.run_id, "--format", "csv").stdout.splitlines()
        names = rows[0].split(",")
        for row in rows[1:]:
            values = dict(zip(names, row.split(","), strict=True))
            stated = run.data.metrics.get(f"best/val/accuracy/{values['combination']}")
            if stated is not None:
                assert float(values["accuracy"]) == pytest.approx(stated, abs=1e-6), f"{trial}: {values}"
        assert len(rows) >= 8

    said = stored.run("resume", "small").stderr
    assert "small is complete: 4 trials" in said
    no_longer = ("val/ece", "val/macro_f1", "val/class_mean_cosine", "val/variance_error")
    stored.assert_exact(trials=4, epochs=4, no_longer=no_longer, not_before=("train/gradient_norm_",))
    after = {run.data.tags["trial"]: run for run in stored.mlflow_runs()}
    assert {number: run.info.run_id for number, run in before.items()} == {n: after[n].info.run_id for n in before}
    assert kept.items() <= dict(stored.history(after["1"])["val/accuracy_mean"]).items()
    assert {trial.number: trial.params for trial in stored.optuna_trials() if trial.number in params} == params
    assert {run.info.status for run in stored.mlflow_runs(stage="confirm")} == {"FINISHED"}

    for stage, runs in (("search", 4), ("confirm", len(stored.mlflow_runs(stage="confirm")))):
        table = stored.run("table", "small", "--stage", stage, "--format", "csv").stdout
        assert len({line.split(",")[0] for line in table.splitlines()[1:]}) == runs
    assert Path(stored.run("heatmap", "small").stdout.strip()).stat().st_size > 0
    assert "<html" in Path(stored.run("report", "small").stdout.strip()).read_text(encoding="utf-8")
    stored.run("export", "small", "--run", before["0"].info.run_id, "-o", "model")
    model = mlflow.pyfunc.load_model(str(stored.path / "model"))
    example = model.metadata.load_input_example(str(stored.path / "model"))
    found = model.predict(example)
    assert list(found["combination"]) == ["-".join(example.columns), example.columns[0]]
    assert [sum(row) for row in found["probabilities"]] == pytest.approx([1.0, 1.0])
    assert all(trial.state == TrialState.COMPLETE for trial in stored.optuna_trials())
