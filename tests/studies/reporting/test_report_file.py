"""`dmr report` on a study's folder."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient
from typer.testing import CliRunner

from dmr.studies.cli.entry_point import app
from dmr.studies.errors import StudyError
from dmr.studies.reporting import stored_results as stored_runs
from dmr.studies.storage.store_passwords import ask_for_password

TAGS = {
    "study": "digits",
    "stage": "study",
    "modalities": '["rgb", "depth"]',
    "objectives": '[{"metric": "val/accuracy_mean", "mode": "max"}]',
    "searched": "[]",
    "dataset": "digits",
    "main_metric": "accuracy",
    "combinations": "all 3",
}


RESOLVED = """\
name: digits
experiment: e
dataset: {name: digits}
model: {method: dmrnet}
objective: [{metric: val/accuracy_mean, mode: max}]
budget: {trials: 3, minutes: null}
"""


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """The storage of a study that has just begun."""
    uri, folder = f"sqlite:///{tmp_path / 'mlflow.db'}", tmp_path / "runs" / "digits"
    client = MlflowClient(uri)
    client.create_run(client.create_experiment("e"), tags=TAGS)
    folder.mkdir(parents=True)
    (folder / "study.yaml").write_text(RESOLVED)
    (folder / "places.json").write_text(json.dumps({"tracking_uri": uri, "optuna_url": ""}))
    return folder.parent


def test_a_page_in_the_study_or_where_it_is_told(runs: Path, tmp_path: Path) -> None:
    own, other = runs / "digits" / "report.html", tmp_path / "other.html"
    for arguments, path in ((), own), (("-o", str(other)), other):
        done = CliRunner().invoke(app, ["report", "digits", "--storage", str(runs), *arguments])
        assert (done.exit_code, done.stdout) == (0, f"{path}\n"), done.output
    assert own.read_text().split("</header>")[1] == other.read_text().split("</header>")[1]
    assert "There is no result yet" in own.read_text()
    assert sorted(path.name for path in own.parent.iterdir()) == ["places.json", "report.html", "study.yaml"]


def test_what_is_wrong_is_one_line(runs: Path, tmp_path: Path) -> None:
    (tmp_path / "taken.HTML").mkdir()
    study_file = tmp_path / "digits.yaml"
    study_file.write_text("dataset: {name: digits}")
    for arguments, line in {
        ("digits", "-o", str(tmp_path / "none" / "r.html")): "there is no directory",
        ("digits", "-o", str(tmp_path)): "is a directory",
        ("digits", "-o", str(tmp_path / "taken.HTML")): "is a directory",
        ("digits", "-o", str(study_file)): "ends in .html",
        ("letters",): "no study 'letters' here",
    }.items():
        done = CliRunner().invoke(app, ["report", *arguments, "--storage", str(runs)])
        assert (done.exit_code, done.stderr.count("\n")) == (2, 1)
        assert line in done.stderr
    assert study_file.read_text() == "dataset: {name: digits}"


def test_a_database_server_that_is_away_or_wants_a_password_is_one_line_soon(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLflow's own client tries for 100 s."""
    uri = "postgresql://me:***@127.0.0.1:9/none"
    (runs / "digits" / "places.json").write_text(json.dumps({"tracking_uri": uri, "optuna_url": ""}))

    def refused(command: str) -> str:
        started = time.monotonic()
        done = CliRunner().invoke(app, [command, "digits", "--storage", str(runs)])
        assert time.monotonic() - started < 15.0
        assert (done.exit_code, done.stderr.count("\n")) == (2, 1)
        return done.stderr

    def no_password(uri: str) -> None:
        raise StudyError(ask_for_password("no password supplied", "MLFLOW_TRACKING_URI"))

    for command in ("report", "compare", "table"):
        assert "cannot be used: " in refused(command)
    monkeypatch.setattr(stored_runs, "check_database", no_password)
    assert refused("table").count("passwords are not stored: set MLFLOW_TRACKING_URI") == 1
