"""The commands that read a study, on studies that ended, or did not, in every way: never a traceback."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import pytest
from click.testing import Result
from mlflow import MlflowClient
from typer.testing import CliRunner

from dmr.combinations import all_combinations
from dmr.files import write_text
from dmr.studies.cli.entry_point import app
from dmr.studies.stages.search_stage import SearchStage
from dmr.studies.storage.locations import StoreUris
from dmr.studies.storage.mlflow_store import open_mlflow
from dmr.studies.storage.study_folder import StudyFolder
from dmr.studies.study_file.plan import make_plan
from dmr.studies.tracking.tracker import Tracker
from dmr.studies.trial_outcomes import TrialOutcome
from dmr.studies.yaml_io import to_yaml
from dmr.training import EpochReport

READERS: dict[str, Callable[[io.BytesIO], pd.DataFrame]] = {
    "csv": pd.read_csv,
    "json": lambda file: pd.read_json(file, orient="records"),
    "parquet": pd.read_parquet,
}
FRONT = ["run", "trial", "stage", "status", "method", "seed", "split", "metric", "combination", "value"]
# how each trial ended, None where it runs, and the accuracy it has with everything, None before its first epoch
MIXED = [("completed", 0.9), ("pruned", 0.6), ("error", None), (None, 0.8), (None, None), ("diverged", 0.5)]
NOTHING = [("error", None), ("lost", None), (None, None)]
STUDIES: dict[str, tuple[int, list[tuple[Any, float | None]]]] = {
    "mixed": (3, MIXED),
    "one": (2, [("completed", 0.7)]),
    "running": (2, [(None, 0.7)]),
    "nothing": (2, NOTHING),
    "begun": (2, []),
    "early": (2, [("pruned", 0.8), ("completed", 0.7)]),
}


def report(modalities: int, accuracy: float, rare: bool) -> EpochReport:
    """Accuracy is proportional to the modalities present; `rare`: with a metric that only some combinations have."""
    shares = all_combinations(list("abc"[:modalities])).masks.mean(axis=1)
    values = {"accuracy": (accuracy * shares).tolist()}
    if rare:
        values["macro_f1"] = [math.nan, *(0.5 * accuracy * shares[1:]).tolist()]
    metrics = {"train/loss": 1.0, "val/accuracy_mean": accuracy * shares.mean(), "val/accuracy_worst": accuracy / 3}
    return EpochReport(0, metrics | ({"val/macro_f1_mean": 0.4} if rare else {}), 0, metrics, {"val": values})


def write_study(place: Path, name: str, modalities: int, trials: list[tuple[Any, float | None]]) -> None:
    """A study as its driver would leave it if it were killed now."""
    dataset = {"name": "planted", "modalities": modalities, "train": 12, "val": 12, "test": 12}
    plan = make_plan({"name": name, "dataset": dataset, "budget": {"trials": 9}, "experiment": "reading"}, name)
    folder = StudyFolder(place / "dmr_runs", name)
    folder.path.mkdir(parents=True)
    uri, optuna_url = f"sqlite:///{place / 'mlflow.db'}", f"sqlite:///{place / 'optuna.db'}"
    tracker = Tracker(folder.journal, uri, open_mlflow(uri, "reading"))
    stage = SearchStage(plan, optuna.storages.RDBStorage(optuna_url), tracker, folder, may_exist=True)
    folder.remember(StoreUris(uri, optuna_url))
    write_text(folder.study_file, to_yaml(plan.document))
    stage.open()
    for number, (reason, accuracy) in enumerate(trials):
        stage.begin()
        if accuracy is not None:
            stage.epoch(number, report(modalities, accuracy, rare=number == 0))
        if reason is not None:
            stage.finish(number, TrialOutcome(reason, "it broke" if reason in ("error", "lost", "diverged") else ""))
    assert tracker.close(timeout=60.0), tracker.error


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("reading")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)  # where a local store puts artifacts
        for name, (modalities, trials) in STUDIES.items():
            write_study(place, name, modalities, trials)
    return place


def dmr(place: Path, *arguments: Any) -> Result:
    return CliRunner().invoke(app, [*map(str, arguments), "--storage", str(place / "dmr_runs")])


def read(place: Path, *arguments: Any) -> Result:
    """A command that has to succeed."""
    done = dmr(place, *arguments)
    assert done.exit_code == 0, f"{done.output}\n{done.exc_info}"
    return done


@pytest.mark.parametrize("name", STUDIES)
@pytest.mark.parametrize("output", READERS)
def test_a_table_of_every_study_in_every_form(place: Path, name: str, output: str) -> None:
    modalities, trials = STUDIES[name]
    combinations = 2**modalities - 1
    for metrics in ("main", "all"):
        done = read(place, "table", name, "--metrics", metrics, "--format", output)
        assert done.stderr == ""
        if not trials and output == "json":  # has no columns then
            assert done.stdout == "[]\n"
            continue
        found = READERS[output](io.BytesIO(done.stdout_bytes))
        assert found.columns.tolist()[: len(FRONT)] == FRONT
        assert found["trial"].nunique() == len(trials)
        for number, (reason, accuracy) in enumerate(trials):
            rows = found[found["trial"] == number]
            assert set(rows["status"]) == {reason or "running"}
            if accuracy is None or reason in (None, "diverged"):
                assert rows[["split", "metric", "combination", "value"]].isna().all(axis=None)
                assert len(rows) == 1
                continue
            assert (rows["metric"] == "accuracy").sum() == combinations
            assert rows["value"].max() == pytest.approx(accuracy, abs=1e-12)
            rare = (rows["metric"] == "macro_f1").sum()
            assert rare == (combinations - 1 if metrics == "all" and number == 0 else 0)


@pytest.mark.parametrize("name", STUDIES)
def test_no_confirm_runs_are_an_empty_table(place: Path, name: str) -> None:
    head = read(place, "table", name, "--stage", "confirm").stdout.splitlines()[0].split(",")
    assert head[: len(FRONT) + 1] == [*FRONT, "config"]
    assert len(read(place, "table", name, "--stage", "confirm", "--metrics", "all").stdout.splitlines()) == 1


def test_figures_have_the_names_and_the_rates_that_were_asked_for(place: Path, tmp_path: Path) -> None:
    labels = ["--labels", "a=Audio,trial 1, dropout=Dropout", "--labels", "nobody=x", "--no-title"]
    done = read(place, "figures", "mixed", "-o", tmp_path, "--format", "svg", "--rates", "a=0.01,b=0.2", *labels)
    assert "--labels: no figure has 'nobody'\n" in done.stderr
    assert "no figure has 'a'" not in done.stderr
    trials, rates = ((tmp_path / f"{name}.svg").read_text() for name in ("trials", "rates"))
    assert ">Audio</text>" in trials
    assert ">trial 1 (1 of 40 epochs)</text>" in trials  # pruned
    assert "mixed: " not in trials
    assert ">in use</text>" in rates


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--labels", "a", "--labels a: OLD=NEW is needed, got 'a'"),
        ("--labels", "a=,b=c", "--labels a=,b=c: OLD=NEW is needed"),
        ("--rates", "d=0.1", "--rates d=0.1: 'd' is no modality; the modalities are a, b, noise"),
        ("--rates", "a=1.1", "--rates a=1.1: a: a number from 0 to 1 is needed, got '1.1'"),
        ("--rates", "a", "--rates a: a: a number from 0 to 1 is needed, got ''"),
        ("--rates", "a=0.1,a=0.9", "--rates a=0.1,a=0.9: a comes twice"),
    ],
)
def test_a_wrong_name_or_rate_is_one_line(place: Path, tmp_path: Path, option: str, value: str, message: str) -> None:
    refused = dmr(place, "figures", "mixed", "-o", tmp_path, option, value)
    assert (refused.exit_code, refused.stderr) == (2, f"{message}\n")


@pytest.mark.parametrize("name", STUDIES)
def test_a_heatmap_or_one_line_that_says_why_there_is_none(place: Path, name: str, tmp_path: Path) -> None:
    file = tmp_path / "heatmap.png"
    if name in ("mixed", "one", "early"):
        assert read(place, "heatmap", name, "--top", "40", "-o", file).stdout == f"{file}\n"
        assert file.stat().st_size > 10_000
        return
    refused = dmr(place, "heatmap", name, "-o", file)
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert refused.stderr == f"study {name}: no trial has values to draw yet\n"
    assert list(tmp_path.iterdir()) == []


def test_status_and_list_count_trials_by_how_they_ended(place: Path) -> None:
    shown = {name: read(place, "status", name).stdout.splitlines() for name in STUDIES}
    assert shown["mixed"][:3] == [
        "mixed: not running, 4 of 9 trials",
        "trials: 1 completed, 1 pruned, 1 error, 2 running, 1 diverged",
        "best: val/accuracy_mean 0.5143, worst combination 0.3000 (trial 0)",  # 0.9 · 12/21, and 0.9 / 3
    ]
    assert shown["early"][2].endswith("(trial 0, pruned)")
    assert shown["one"][1] == "trials: 1 completed"
    assert shown["nothing"][1] == "trials: 1 error, 1 lost, 1 running"
    assert shown["begun"][1] == "trials: 1 waiting"  # the file's defaults come first
    assert not any(line.startswith("best") for name in ("nothing", "begun", "running") for line in shown[name])
    assert read(place, "list").stdout.splitlines() == sorted(lines[0] for lines in shown.values())


COMMANDS = (["table", "one"], ["heatmap", "one"], ["figures", "one"], ["report", "one"], ["compare", "one"])


@pytest.mark.parametrize("what", ["run", "experiment"])
def test_a_study_that_was_deleted_in_mlflow_is_one_line_that_says_how_to_restore_it(place: Path, what: str) -> None:
    """For every command that reads it, and for `resume`, which starts nothing."""
    client = MlflowClient(f"sqlite:///{place / 'mlflow.db'}")
    folder = StudyFolder(place / "dmr_runs", "one")
    experiment = client.get_experiment_by_name("reading").experiment_id
    (run,) = client.search_runs([experiment], f"tags.`dmr.key` = '{folder.study_key}'")
    before = read(place, "table", "one").stdout
    if what == "run":
        client.delete_run(run.info.run_id)
        text = f"the study's run was deleted in MLflow; restore it: mlflow runs restore --run-id {run.info.run_id}"
    else:
        client.delete_experiment(experiment)
        text = "experiment 'reading' was deleted in MLflow; restore it: "
        text += f"mlflow experiments restore --experiment-id {experiment}"
    journal = folder.journal.read_bytes()
    for command in (*COMMANDS, ["resume", "one"]):
        done = dmr(place, *command)
        assert (done.exit_code, done.stdout) == (2, ""), command
        (line,) = done.stderr.splitlines()
        assert line.endswith(text), command
        assert "mlflow.db: " in line
    assert folder.journal.read_bytes() == journal
    if what == "run":
        client.restore_run(run.info.run_id)
    else:
        client.restore_experiment(experiment)
    assert read(place, "table", "one").stdout == before


def test_a_trial_that_was_deleted_in_mlflow_is_named(place: Path, tmp_path: Path) -> None:
    client = MlflowClient(f"sqlite:///{place / 'mlflow.db'}")
    table = pd.read_csv(io.StringIO(read(place, "table", "mixed").stdout))
    runs = table.groupby("trial")["run"].first()
    for run in (runs[1], runs[0]):
        client.delete_run(run)
    try:
        left_out = dmr(place, "table", "mixed")
        line = left_out.stderr.strip()
        assert set(pd.read_csv(io.StringIO(left_out.stdout))["trial"]) == set(table["trial"]) - {0, 1}
        assert line.startswith("mixed: left out: mixed-000")
        assert line.endswith(", and 1 more")
        client.restore_run(runs[0])
        line = "mixed: left out: mixed-0001: its run was deleted in MLflow; "
        line += f"restore it: mlflow runs restore --run-id {runs[1]}"
        for command in (["heatmap", "mixed", "-o", tmp_path / "h.png"], ["figures", "mixed", "-o", tmp_path]):
            assert dmr(place, *command).stderr.splitlines()[0] == line
    finally:
        for run in runs[:2]:
            client.restore_run(run)
    assert read(place, "table", "mixed").stderr == ""
