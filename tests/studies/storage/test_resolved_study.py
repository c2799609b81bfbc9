"""The resolved study in its folder, as people leave it who edit it by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from typer.testing import CliRunner

from dmr.studies.cli.entry_point import app
from dmr.studies.storage.locations import StoreUris
from dmr.studies.storage.study_folder import StudyFolder

RESOLVED: dict[str, Any] = {
    "name": "s",
    "experiment": "e",
    "dataset": {"name": "digits"},
    "model": {"method": "dmrnet"},
    "objective": [{"metric": "val/accuracy_mean", "mode": "max"}],
    "budget": {"trials": 3, "minutes": None},
}


def write(storage: Path, name: str, document: dict[str, Any]) -> None:
    folder = StudyFolder(storage, name)
    folder.path.mkdir()
    folder.study_file.write_text(yaml.safe_dump(document))
    folder.remember(StoreUris(f"sqlite:///{storage / 'mlflow.db'}", folder.optuna_url))


def begin(folder: StudyFolder) -> optuna.Study:
    storage = optuna.storages.RDBStorage(folder.optuna_url)
    return optuna.create_study(study_name=folder.name, storage=storage)


@pytest.mark.parametrize(
    "edited",
    [{key: None} for key in RESOLVED]
    + [{"objective": "accuracy"}, {"objective": []}, {"objective": [{"metric": "val/nll_mean"}]}]
    + [{"budget": 3}, {"budget": {"trials": 3}}, {"budget": {"trials": "many", "minutes": None}}, {"dataset": {}}],
    ids=str,
)
def test_a_study_file_edited_by_hand_is_one_line_and_hides_no_other_study(
    tmp_path: Path, edited: dict[str, Any]
) -> None:
    write(tmp_path, "s", RESOLVED | edited)
    write(tmp_path, "t", RESOLVED | {"name": "t"})
    begin(StudyFolder(tmp_path, "t"))
    (key,) = edited
    for command in (["status", "s"], ["table", "s"], ["export", "s", "-o", "x"], ["rm", "s", "--yes"]):
        done = CliRunner().invoke(app, [*command, "--storage", str(tmp_path)])
        assert (done.exit_code, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.output
        assert f"s/study.yaml: {key}: got " in done.stderr
    listed = CliRunner().invoke(app, ["list", "--storage", str(tmp_path)])
    assert listed.exit_code == 0
    assert [line.split(":")[0] for line in listed.stdout.splitlines()] == ["s", "t"]
    assert "t: not running, 0 of 3 trials" in listed.stdout


def test_a_study_whose_journal_is_lost_is_not_said_to_be_deleted(tmp_path: Path) -> None:
    write(tmp_path, "s", RESOLVED)
    folder = StudyFolder(tmp_path, "s")
    begin(folder).ask()
    for content in (None, b"", b"{"):
        if content is not None:
            folder.journal.write_bytes(content)
        done = CliRunner().invoke(app, ["rm", "s", "--yes", "--storage", str(tmp_path)])
        assert (done.exit_code, done.stdout) == (2, "")
        assert "journal.jsonl: is lost or damaged, and with it which runs in MLflow are this study's" in done.stderr
        assert folder.study_file.exists()
    folder.journal.write_text('{"op":"journal","id":"j"}\n')
    done = CliRunner().invoke(app, ["rm", "s", "--yes", "--storage", str(tmp_path)])
    assert (done.exit_code, done.stdout.split(";")[0]) == (0, "s is deleted")
