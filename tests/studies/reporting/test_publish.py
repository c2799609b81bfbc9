"""What a study leaves to read on its own run in MLflow, and that making it never ends the study."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlflow
import optuna
import pandas as pd
import pytest
import torch
from mlflow.entities import LoggedModel, Run
from mlflow.tracking import MlflowClient

from dmr.files import write_text
from dmr.studies.reporting import publish as keep
from dmr.studies.reporting.publish import publish
from dmr.studies.stages.confirm_stage import ConfirmStage
from dmr.studies.stages.search_stage import SearchStage
from dmr.studies.storage.locations import StoreUris
from dmr.studies.storage.mlflow_store import open_mlflow
from dmr.studies.storage.optuna_attributes import best_of
from dmr.studies.storage.study_folder import StudyFolder
from dmr.studies.study_file.plan import make_plan
from dmr.studies.tracking.dataset_inputs import searched_inputs
from dmr.studies.tracking.run_logging import NOTE
from dmr.studies.tracking.tracker import Tracker
from dmr.studies.trial_outcomes import TrialOutcome
from dmr.studies.workers.checkpoint_reporter import FolderReporter
from dmr.studies.workers.local_trial import test_here as evaluate_on_test
from dmr.studies.yaml_io import to_yaml
from dmr.training import EpochReport, fit

DOCUMENT: dict[str, Any] = {
    "name": "s.1",
    "dataset": {"name": "digits"},
    "model": {"method": "dropout", "encoder": {"name": "mlp", "width": 8}},
    "train": {"epochs": 1},
    "search": {"train.learning_rate": {"log_uniform": [1e-3, 1e-2]}},
    "scheduler": {"name": "none"},
    "budget": {"trials": 2},
}


class Quiet(FolderReporter):
    def report(self, report: EpochReport) -> None:
        """Nobody listens."""


class Study:
    """A study in a folder, driven without Ray."""

    def __init__(self, path: Path, uri: str, experiment: str, **keys: Any) -> None:
        self.plan = make_plan(DOCUMENT | keys, "s.yaml")
        self.uri, self.experiment = uri, experiment
        self.folder = StudyFolder(path, "s.1")
        self.folder.path.mkdir(exist_ok=True)
        self.folder.remember(StoreUris(uri, self.folder.optuna_url))
        write_text(self.folder.study_file, to_yaml(self.plan.document))
        self.client = MlflowClient(uri)
        self.begin()

    def begin(self) -> None:
        """A driver starts."""
        storage = optuna.storages.get_storage(self.folder.optuna_url)
        self.tracker = Tracker(self.folder.journal, self.uri, self.experiment)
        self.stage = SearchStage(self.plan, storage, self.tracker, self.folder, may_exist=True)
        self.stage.open()

    def train(self, stage: SearchStage | ConfirmStage) -> None:
        """The next trial of a stage."""
        record = stage.begin()
        assert record is not None
        place, device = self.folder.run(stage.stage, record.number), torch.device("cpu")
        found = fit(stage.dataset, record.settings, device, Quiet(place, stage.scheduler_metric))
        stage.epoch(record.number, found)
        if stage.stage == "confirm":
            record.tested = evaluate_on_test(record.settings, place, device, stage.dataset)
        stage.finish(record.number, TrialOutcome("completed"))

    @property
    def parent(self) -> Run:
        assert self.tracker.flush(timeout=30.0)
        return self.client.get_run(str(self.tracker.run_id("study")))

    def models(self) -> list[LoggedModel]:
        """Those of this study."""
        assert self.tracker.flush(timeout=30.0)
        wanted = f"tags.`dmr.key` LIKE '{self.tracker.journal.id}/%'"
        return self.client.search_logged_models([self.experiment], wanted)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    uri = f"sqlite:///{tmp_path_factory.mktemp('store') / 'mlflow.db'}"
    return uri, open_mlflow(uri, "digits")


@pytest.fixture
def start(tmp_path: Path, store: tuple[str, str]) -> Iterator[Callable[..., Study]]:
    made: list[Study] = []

    def start(**keys: Any) -> Study:
        made.append(Study(tmp_path, *store, **keys))
        return made[-1]

    yield start
    for study in made:
        study.tracker.close(timeout=30.0)


def test_a_note_and_the_winners_model_and_after_the_confirmation_what_it_found(
    start: Callable[..., Study], monkeypatch: pytest.MonkeyPatch
) -> None:
    study = start(confirm={"top": 1, "seeds": 1})
    for _ in range(2):
        study.train(study.stage)
    publish(study.stage)
    best = study.stage.best
    assert best is not None
    note = study.parent.data.tags[NOTE]
    assert f"val/accuracy_mean {best.values.objective:.4f}" in note
    values = [best_of(trial) for trial in study.stage.study.get_trials()]
    default = "; it has the file's defaults, so searching found nothing better"
    if best.number == 1:
        default = f", where the file's defaults (trial 0) have {values[0].objective:.4f}"
    found = f"Trial {best.number} (`dropout`) was the best of 2 by val/accuracy_mean: {best.values.objective:.4f}"
    assert note.startswith(f"**{found}{default}.** It is not confirmed on test: `dmr confirm s.1` trains it again")
    assert (
        f"[trial {best.number}](#/experiments/{study.experiment}/runs/{study.tracker.run_id(f'search/{best.number}')})"
        in note
    )
    assert "2 trials: 2 completed" in note
    assert "Random search: tpe proposes its first 10 trials at random, and the budget is 2 trials." in note
    trial = study.client.get_run(str(study.tracker.run_id("search/0")))
    assert trial.data.tags["epochs"] == "1"
    assert "Confirmed" not in note
    assert "<dt>Ended</dt><dd>not yet</dd>" in study.folder.report.read_text(), "the confirmation comes"
    assert {model.name for model in study.models()} == {"s-1-0000", "s-1-0001"}  # the winner waits for the confirmation

    confirmation = ConfirmStage(study.stage)
    confirmation.open()
    while confirmation.remaining:
        study.train(confirmation)
    for _ in range(2):
        publish(study.stage, confirmation)
    study.tracker.close(timeout=30.0)
    study.folder.journal.with_suffix(".shipped").unlink()
    study.begin()  # everything is sent again
    note = study.parent.data.tags[NOTE]
    (winner,) = [model for model in study.models() if model.name == "s-1-winner"]
    run = study.client.get_run(str(winner.tags["run"]))
    tested = run.data.metrics["best/test/accuracy_mean"]
    assert note.splitlines()[0].startswith(
        f"**{found}{default}.** Confirmed on test (seeds: 1): mean accuracy {tested:.4f}"
    )
    assert ("of the defaults" in note.splitlines()[0]) == (best.number == 1)
    assert "### Confirmed on test" in note
    assert "<dt>Ended</dt><dd>20" in study.folder.report.read_text(), "MLflow is told a moment later"
    order = ["- What is lost without each modality", "- Its weakest combination", "- It cost 2 trials and "]
    assert [note.index(words) for words in order] == sorted(note.index(words) for words in order)
    assert f"models:/{winner.model_id}" in note
    assert (run.data.tags["stage"], run.data.tags["trial"]) == ("confirm", str(best.number))
    assert f"{run.data.metrics['best/test/accuracy_mean']:.4f}" in note
    assert len(study.models()) == 2 + confirmation.total + 1
    inputs = {(i.tags[0].value, i.dataset.name) for i in study.parent.inputs.dataset_inputs}
    assert inputs == {("train", "digits"), ("val", "digits"), ("test", "digits")}
    monkeypatch.setenv("MLFLOW_TRACKING_URI", study.uri)  # MLflow sets it too, and leaves it there
    mlflow.set_tracking_uri(study.uri)
    predicted = mlflow.pyfunc.load_model(f"models:/{winner.model_id}").predict(pd.DataFrame({"top_left": [[1.0] * 16]}))
    assert predicted["combination"].tolist() == ["top_left"]
    for text in re.findall(r"`(tags\.study = .*?)`$", note, flags=re.MULTILINE):
        found = len(study.client.search_runs([study.experiment], text))
        assert (found == 0) == ("FAILED" in text), text


def test_a_study_whose_runs_were_written_again_names_the_new_ones(start: Callable[..., Study]) -> None:
    study = start()
    study.train(study.stage)
    publish(study.stage)
    old = str(study.tracker.run_id("search/0"))
    assert f"/runs/{old})" in study.parent.data.tags[NOTE]
    study.tracker.close(timeout=30.0)
    client: Any = study.client
    for run in client.search_runs([study.experiment], f"tags.`dmr.key` LIKE '{study.tracker.journal.id}/%'"):
        client.delete_run(run.info.run_id)
        client._tracking_client.store._hard_delete_run(run.info.run_id)
    for model in study.models():
        client.delete_logged_model(model.model_id)
    for _ in range(2):
        study.begin()
        publish(study.stage)
        note = study.parent.data.tags[NOTE]
        new = str(study.tracker.run_id("search/0"))
        assert (f"/runs/{new})" in note, old in note) == (True, False)
        (winner,) = [model for model in study.models() if "run" in model.tags]
        assert (winner.tags["run"], winner.source_run_id) == (new, study.tracker.run_id("study"))
        assert new in study.folder.report.read_text()
        assert old not in study.folder.report.read_text()
        study.tracker.close(timeout=30.0)


def test_the_documented_filters(start: Callable[..., Study]) -> None:
    study = start(name="s.1")
    for _ in range(2):
        study.train(study.stage)
    assert study.tracker.flush(timeout=30.0)
    ours = f"tags.`dmr.key` LIKE '{study.tracker.journal.id}/%'"

    def number(text: str) -> int:
        return len(study.client.search_runs([study.experiment], f"{ours} and {text}"))

    assert number('metrics."best/val/accuracy_mean" > 0.05 and metrics."best/val/accuracy_worst" <= 1') == 2
    assert number("metrics.`best/val/accuracy/top_left-top_right` > 0") == 2
    assert number('params."train.learning_rate" = "0.002" and tags.method = "dropout"') == 1  # the file's default
    assert number("tags.stop_reason = 'completed' and tags.stage = 'search' and attributes.status = 'FINISHED'") == 2
    digest = searched_inputs(study.plan)[0]["digest"]
    assert number(f"dataset.name = 'digits' and dataset.digest = '{digest}' and dataset.context = 'train'") == 3


def test_what_cannot_be_made_is_a_warning(
    start: Callable[..., Study], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    study = start()
    study.train(study.stage)

    def broken(*_: Any) -> None:
        raise KeyError("no model today")

    monkeypatch.setattr(keep, "_publish_winner", broken)
    publish(study.stage)
    assert "the model of the winner cannot be made: KeyError: 'no model today'" in caplog.text
    assert NOTE in study.parent.data.tags


def test_a_winner_whose_checkpoint_was_deleted_is_a_line(
    start: Callable[..., Study], caplog: pytest.LogCaptureFixture
) -> None:
    study = start(checkpoints={"keep": None})
    study.train(study.stage)
    checkpoint = study.folder.run("search", 0) / "best.pt"
    checkpoint.unlink()
    publish(study.stage)
    line = f"s.1 trial 0: {checkpoint}: not there any more: it was deleted by hand"
    assert f"the model of the winner cannot be made: {line}" in caplog.messages
    assert "Traceback" not in caplog.text
    assert NOTE in study.parent.data.tags


def test_a_study_in_which_every_trial_failed_has_a_note_that_says_so(
    start: Callable[..., Study], caplog: pytest.LogCaptureFixture
) -> None:
    study = start()
    for _ in range(2):
        record = study.stage.begin()
        assert record is not None
        study.stage.finish(record.number, TrialOutcome("diverged", "the loss is not finite"))
    publish(study.stage)
    note = study.parent.data.tags[NOTE]
    assert note.startswith("Nothing was found: no trial has succeeded.\n\n### No trial has succeeded")
    assert "Failed: 0, 1." in note
    run = study.client.get_run(str(study.tracker.run_id("search/1")))
    assert run.data.tags[NOTE].endswith("diverged: `the loss is not finite`")
    assert study.models() == []
    assert not [record for record in caplog.records if record.levelname == "WARNING" and "cannot" in record.message]
