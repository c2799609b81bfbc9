"""What a study trains on is kept, and what differs from it is said by split and file."""

from __future__ import annotations

from pathlib import Path

import pytest

from dmr.studies.errors import StudyError
from dmr.studies.storage.study_folder import StudyFolder
from dmr.studies.storage.trained_data import changed_data, check_same_data, kept_digests, remember_data

KEPT = {"class_names": "a, b", "train/x": "1", "train/label": "2", "train/present": "3", "val/x": "4"}


@pytest.fixture
def folder(tmp_path: Path) -> StudyFolder:
    folder = StudyFolder(tmp_path, "s")
    folder.path.mkdir()
    return folder


def without(key: str) -> dict[str, str]:
    return {other: digest for other, digest in KEPT.items() if other != key}


@pytest.mark.parametrize(
    ("now", "lines"),
    [
        (KEPT, []),
        (KEPT | {"test/x": "5", "test/label": "6"}, []),  # a split that has come since
        (KEPT | {"train/label": "0"}, ["train/label: other values than when the study began"]),
        (KEPT | {"class_names": "b, a"}, ["class_names: was a, b when the study began, is b, a"]),
        (without("train/present"), ["train/present: was there when the study began, and is not there now"]),
        (KEPT | {"val/present": "7"}, ["val/present: was not there when the study began"]),
        (
            KEPT | {"train/x": "0", "val/x": "0"},
            [f"{split}/x: other values than when the study began" for split in ("train", "val")],
        ),
    ],
)
def test_each_difference_is_a_line(folder: StudyFolder, now: dict[str, str], lines: list[str]) -> None:
    assert changed_data(folder, now, "m:f") == []  # a study of an earlier version has not kept any
    remember_data(folder, KEPT)
    assert kept_digests(folder) == KEPT
    assert changed_data(folder, now, "m:f") == [f"m:f: {line}" for line in lines]


def test_a_file_is_named_where_there_is_one(folder: StudyFolder, tmp_path: Path) -> None:
    (tmp_path / "data/train").mkdir(parents=True)
    file = tmp_path / "data/train/label.npy"
    file.touch()
    remember_data(folder, KEPT)
    (line,) = changed_data(folder, KEPT | {"train/label": "0"}, str(tmp_path / "data"))
    assert line == f"{file}: other values than when the study began"


def test_a_study_of_other_data_is_refused(folder: StudyFolder) -> None:
    remember_data(folder, KEPT)
    check_same_data(folder, KEPT, "m:f")
    with pytest.raises(StudyError, match=r"(?s)^m:f: val/x: other .*\n.*/s: trained on other data: .* --same-data$"):
        check_same_data(folder, KEPT | {"val/x": "0"}, "m:f")


@pytest.mark.parametrize("damage", ["", "{", "3", '{"a"'])
def test_a_damaged_file_is_a_line(folder: StudyFolder, damage: str) -> None:
    folder.data_file.write_text(damage)
    with pytest.raises(StudyError, match=r"data.json: cannot be read: .*; --same-data writes it anew$"):
        changed_data(folder, KEPT, "m:f")
