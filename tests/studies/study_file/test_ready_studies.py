"""The study files that come with DMR, on the command line by their names."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from dmr.studies.cli import app
from dmr.studies.study_file.ready_studies import find_study_file, purpose, ready_studies

STUDIES = Path(__file__).parents[3] / "studies"
NAMES = sorted(file.stem for file in STUDIES.glob("*.yaml"))


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_ready_studies_are_those_of_the_folder() -> None:
    assert list(ready_studies()) == NAMES
    assert {"arrays", "digits", "scenes"} <= set(NAMES)


def test_a_name_is_a_ready_study_where_no_such_file_is(elsewhere: Path) -> None:
    assert find_study_file(Path("digits")) == STUDIES / "digits.yaml"
    (elsewhere / "digits").mkdir()
    assert find_study_file(Path("digits")) == STUDIES / "digits.yaml"
    (elsewhere / "digits").rmdir()
    (elsewhere / "digits").write_text("name: mine\n")
    assert find_study_file(Path("digits")) == Path("digits")


@pytest.mark.parametrize("path", ["other/digits", "digits.yaml"])
def test_a_path_is_no_name(path: str) -> None:
    assert find_study_file(Path(path)) == Path(path)


@pytest.mark.parametrize("command", [["run"], ["train"], ["run", "--dry-run"]])
def test_an_unknown_name_is_one_line(command: list[str]) -> None:
    result = CliRunner().invoke(app, [*command, "digts"])
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == f"digts: no such file, and no ready study of that name; there are {', '.join(NAMES)}\n"


def test_a_ready_study_is_checked_from_any_directory(elsewhere: Path) -> None:
    result = CliRunner().invoke(app, ["run", "digits", "--dry-run"])
    assert result.exit_code == 0, result.stderr
    assert result.stdout.startswith("name: digits\n")
    assert list(elsewhere.iterdir()) == []


def test_studies_are_listed_with_what_each_is_for() -> None:
    result = CliRunner().invoke(app, ["studies"])
    assert result.exit_code == 0
    lines = dict(line.split(maxsplit=1) for line in result.stdout.splitlines())
    assert list(lines) == NAMES
    assert lines["crema_d"] == "CREMA-D: six emotions in audio and video."
    assert all(text.endswith(".") and len(text) > 20 for text in lines.values())


def test_a_purpose_goes_over_lines_to_the_end_of_its_sentence(elsewhere: Path) -> None:
    file = elsewhere / "mine.yaml"
    file.write_text("# One\n# two. Three.\nname: mine\n# four\n")
    assert purpose(file) == "One two."


@pytest.mark.parametrize("name", NAMES)
def test_a_study_is_printed_as_it_is(name: str) -> None:
    result = CliRunner().invoke(app, ["studies", name])
    assert result.exit_code == 0
    assert result.stdout == (STUDIES / f"{name}.yaml").read_text(encoding="utf-8")


def test_an_unknown_study_is_not_printed() -> None:
    result = CliRunner().invoke(app, ["studies", "digts"])
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == f"digts: no ready study of that name; there are {', '.join(NAMES)}\n"
