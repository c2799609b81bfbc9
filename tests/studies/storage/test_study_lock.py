"""What a dead driver left running is ended by what it noted; a damaged note harms nobody."""

from __future__ import annotations

from pathlib import Path

import pytest

from dmr.studies.storage.study_lock import StudyLock


@pytest.mark.parametrize("noted", ["", "{}", "[1, 2]", "3", '{"host": 1}', '{"host": null, "processes": 3}', "null"])
def test_a_damaged_note_of_processes_ends_nothing_and_hinders_nobody(tmp_path: Path, noted: str) -> None:
    (tmp_path / "processes.json").write_text(noted)
    lock = StudyLock(tmp_path)
    lock.end_leftovers()
    with lock.held():
        pass
    assert not (tmp_path / "processes.json").exists()
