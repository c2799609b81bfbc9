from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dmr.data.check import Duplicates, InputReport, check_folder
from dmr.data.dataset import DataError, MultimodalDataset

MakeDataset = Callable[..., MultimodalDataset]
WriteArrays = Callable[..., Path]
Change = Callable[[Any], Any]


@pytest.fixture
def folder(make_dataset: MakeDataset, write_arrays: WriteArrays) -> Path:
    return write_arrays(make_dataset(3, train=18, val=12, test=9))


@pytest.fixture
def maps(make_maps: MakeDataset, write_arrays: WriteArrays) -> Path:
    return write_arrays(make_maps(train=10), task="segmentation", ignore_index=255)


def changed(file: Path, change: Change) -> None:
    np.save(file, change(np.load(file)))


def with_value(at: Any, value: Any) -> Change:
    def change(array: Any) -> Any:
        array[at] = value
        return array

    return change


# --- what is in it ----------------------------------------------------------------------------------------------------


def test_a_sound_folder(folder: Path) -> None:
    report = check_folder(folder)
    assert (report.name, report.task, report.class_names) == ("data", "classification", ["0", "1", "2"])
    assert {name: split.samples for name, split in report.splits.items()} == {"train": 18, "val": 12, "test": 9}
    assert {name: split.classes for name, split in report.splits.items()} == {
        "train": [6, 6, 6],
        "val": [4, 4, 4],
        "test": [3, 3, 3],
    }
    assert report.splits["val"].inputs == dict.fromkeys("abc", InputReport("float32", 12, 0, 0))
    assert report.splits["val"].combinations == {"a-b-c": 12}
    assert report.errors == report.warnings == report.duplicates == []


def test_label_maps_are_counted_by_pixel(maps: Path) -> None:
    report = check_folder(maps)
    labels = np.load(maps / "train" / "label.npy")
    train = report.splits["train"]
    assert train.classes == [int((labels == c).sum()) for c in range(3)]
    assert train.ignored == 10 * 16
    assert report.errors == report.warnings == []


def test_what_is_present_is_counted(folder: Path) -> None:
    present = np.array([[1, 1, 1], [1, 0, 0], [1, 0, 0], [0, 1, 1], [1, 0, 0], [0, 1, 1]], dtype=bool)
    np.save(folder / "train" / "present.npy", np.tile(present, (3, 1)))
    train = check_folder(folder).splits["train"]
    assert list(train.combinations.items()) == [("a", 9), ("b-c", 6), ("a-b-c", 3)]
    assert {name: found.present for name, found in train.inputs.items()} == {"a": 12, "b": 9, "c": 9}


def test_further_keys_of_the_description_are_shown(make_dataset: MakeDataset, write_arrays: WriteArrays) -> None:
    modalities = [
        {"name": "a", "kind": "vector", "shape": [5], "train_mean": [0.5]},
        {"name": "b", "kind": "vector", "shape": [5]},
    ]
    report = check_folder(write_arrays(make_dataset(), modalities=modalities, licence="CC0", source={"by": "us"}))
    assert report.description == {
        "licence": "CC0",
        "source": {"by": "us"},
        "modalities": {"a": {"train_mean": [0.5]}},
    }


# --- what is wrong with it --------------------------------------------------------------------------------------------


def spoil_everything(folder: Path) -> list[str]:
    """One fault a file, and what must be said of each."""
    changed(folder / "train" / "a.npy", with_value(([3, 7], 2), np.nan))
    changed(folder / "train" / "b.npy", lambda x: x[:, :4])
    changed(folder / "train" / "c.npy", lambda x: x.astype(np.float64))
    changed(folder / "val" / "label.npy", with_value(5, 9))
    changed(folder / "val" / "a.npy", lambda x: x[:-2])
    np.save(folder / "val" / "present.npy", np.ones((12, 2), dtype=bool))
    cut = folder / "val" / "b.npy"
    cut.write_bytes(cut.read_bytes()[:200])
    (folder / "test" / "a.npy").unlink()
    (folder / "test" / "b.npy").unlink()
    (folder / "test" / "b.npy").mkdir()
    changed(folder / "test" / "c.npy", with_value((2, 0), -np.inf))
    return [
        "train/a.npy: modality a, split train, row 3: NaN or infinity, and in 1 more",
        "train/b.npy: samples of shape (4,); dataset.yaml says (5,)",
        "train/c.npy: type float64; allowed are float32, float16, uint8 in native byte order",
        "val/label.npy: row 5: label 9; allowed are 0 to 2",
        "val/present.npy: bool of shape (12, 3) is needed, got bool (12, 2)",
        "val/a.npy: 10 samples, but label.npy has 12",
        "val/b.npy: not a readable .npy array: ",
        "test/a.npy: no such file",
        "test/b.npy: not a readable .npy array: ",
        "test/c.npy: modality c, split test, row 2: NaN or infinity",
    ]


def test_all_problems_are_listed(folder: Path) -> None:
    expected = spoil_everything(folder)
    report = check_folder(folder)
    assert len(report.errors) == len(expected)
    for line, start in zip(report.errors, expected, strict=True):
        assert line.startswith(f"{folder}/{start}")
        assert "\n" not in line
    assert report.splits["train"].inputs == {"a": InputReport("float32", 18, 2, 0)}
    assert report.splits["val"].classes is None
    assert report.splits["val"].samples == 12


@pytest.mark.parametrize("scanned_bytes", [1, 100, 2**26])
def test_what_is_read_in_blocks(folder: Path, scanned_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dmr.data.scan.SCANNED_BYTES", scanned_bytes)
    changed(folder / "train" / "a.npy", with_value(([3, 7, 17], 2), np.inf))
    changed(folder / "train" / "b.npy", with_value((slice(None), [1, 4]), 0.25))
    changed(folder / "train" / "c.npy", with_value((), 2.0))
    changed(folder / "val" / "c.npy", with_value((), 2.0))
    report = check_folder(folder)
    assert report.splits["train"].inputs == {
        "a": InputReport("float32", 18, 3, 0),
        "b": InputReport("float32", 18, 0, 2),
        "c": InputReport("float32", 18, 0, 5),
    }
    assert report.errors == [f"{folder}/train/a.npy: modality a, split train, row 3: NaN or infinity, and in 2 more"]
    assert report.warnings == [f"{folder}/train/c.npy: modality c is the same in every training sample"]


def test_what_is_absent_is_not_looked_at(folder: Path) -> None:
    present = np.ones((18, 3), dtype=bool)
    present[[2, 6], 1] = False
    np.save(folder / "train" / "present.npy", present)
    changed(folder / "train" / "b.npy", with_value(2, np.nan))
    assert check_folder(folder).errors == []
    changed(folder / "train" / "b.npy", with_value(slice(None), 1.0))
    changed(folder / "train" / "b.npy", with_value(6, 7.0))
    assert check_folder(folder).warnings == [f"{folder}/train/b.npy: modality b is the same in every training sample"]


@pytest.mark.parametrize(
    ("file", "change", "line"),
    [
        ("train/label.npy", lambda y: np.minimum(y, 1), "train/label.npy: no train sample of class '2'"),
        ("test/label.npy", lambda y: 0 * y, "test/label.npy: no test sample of class '1', '2'"),
        ("val/label.npy", lambda y: np.minimum(y, 1), "val/label.npy: no val sample of class '2'"),
    ],
)
def test_a_class_without_samples_is_a_warning(folder: Path, file: str, change: Change, line: str) -> None:
    changed(folder / file, change)
    report = check_folder(folder)
    assert report.errors == []
    assert report.warnings == [f"{folder}/{line}"]


def test_a_class_without_pixels_is_a_warning(maps: Path) -> None:
    changed(maps / "train" / "label.npy", lambda y: np.where(y == 1, 0, y))
    report = check_folder(maps)
    assert report.errors == []
    assert report.warnings == [f"{maps}/train/label.npy: no train pixel of class '1'"]


def test_a_class_with_a_single_sample_is_an_error(folder: Path) -> None:
    changed(folder / "train" / "label.npy", lambda y: np.where(y == 2, 0, y) + 2 * (np.arange(18) == 5))
    report = check_folder(folder)
    assert len(report.errors) == 1
    assert "train/label.npy: class '2' has a single sample; 2 are needed" in report.errors[0]


@pytest.mark.parametrize(("split", "level"), [("train", "errors"), ("val", "warnings")])
def test_a_modality_nobody_has(folder: Path, split: str, level: str) -> None:
    samples = {"train": 18, "val": 12}[split]
    np.save(folder / split / "present.npy", np.tile([True, False, True], (samples, 1)))
    report = check_folder(folder)
    assert f"{folder}/{split}/b.npy: modality b: no sample has it" in getattr(report, level)
    assert f"{folder}/{split}/present.npy: no {split} sample has all modalities" in report.warnings
    assert (report.errors == []) == (level == "warnings")


def test_label_maps_of_two_sizes(maps: Path) -> None:
    changed(maps / "val" / "label.npy", lambda y: y[:, :8])
    assert check_folder(maps).errors == [f"{maps}/val/label.npy: label maps of 8 × 16; those of train have 16 × 16"]


def test_what_a_study_refuses_is_an_error(folder: Path) -> None:
    for split in ("val", "test"):
        shutil.rmtree(folder / split)
    for file in (folder / "train").iterdir():
        changed(file, lambda x: x[:6])
    assert check_folder(folder).errors == [f"{folder}/train: 6 samples are too few to split a val set from"]


def test_a_folder_without_training_data(folder: Path) -> None:
    shutil.rmtree(folder / "train")
    report = check_folder(folder)
    assert report.errors == [f"{folder}/train: No such file or directory"]
    assert report.splits["val"].samples == 12
    (folder / "train").write_text("not a folder", encoding="utf-8")
    assert check_folder(folder).errors == [f"{folder}/train: Not a directory"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_what_may_not_be_read(folder: Path) -> None:
    (folder / "val").chmod(0)
    (folder / "train" / "b.npy").chmod(0)
    assert check_folder(folder).errors == [
        f"{folder}/train/b.npy: not a readable .npy array: Permission denied",
        f"{folder}/val: Permission denied",
    ]
    (folder / "val").chmod(0o700)


def test_a_bad_description_lists_all_its_faults(make_dataset: MakeDataset, write_arrays: WriteArrays) -> None:
    modalities = [{"name": "a", "kind": "smell", "shape": [5]}, {"name": "b", "kind": "vector", "shape": 5}]
    folder = write_arrays(make_dataset(), modalities=modalities, num_classes=1, ignore_index=3)
    errors = [line.removeprefix(f"{folder}/dataset.yaml: ") for line in check_folder(folder).errors]
    assert [line.split(":")[0] for line in errors] == [
        "modalities[0].kind",
        "modalities[1].shape",
        "num_classes",
        "ignore_index",
    ]
    twins = write_arrays(make_dataset(), name="twins", modalities=[{"name": "a", "kind": "vector", "shape": [5]}] * 2)
    assert check_folder(twins).errors == [f"{twins}/dataset.yaml: modalities: modality names must differ: a, a"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"dataset\.yaml: no such file; a data folder has a dataset\.yaml"),
        ("a: [", r"dataset\.yaml, line 1: not YAML"),
        ("task: classification", r"dataset\.yaml: modalities: a list of"),
    ],
)
def test_what_is_no_data_folder(tmp_path: Path, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / "dataset.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        check_folder(tmp_path)


# --- the same samples in two splits -----------------------------------------------------------------------------------


def copy_rows(folder: Path, names: str, rows: dict[int, int], split: str = "val") -> None:
    """Rows of train (values) into rows of another split (keys), in some modalities."""
    for name in names:
        train = np.load(folder / "train" / f"{name}.npy")
        changed(folder / split / f"{name}.npy", with_value(list(rows), train[list(rows.values())]))


@pytest.mark.parametrize("scanned_bytes", [1, 2**26])
def test_samples_in_two_splits(folder: Path, scanned_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dmr.data.scan.SCANNED_BYTES", scanned_bytes)
    copy_rows(folder, "abc", {4: 11, 9: 2})
    copy_rows(folder, "abc", {0: 2}, "test")
    copy_rows(folder, "ab", {6: 3})  # the third modality differs
    report = check_folder(folder)
    assert report.duplicates == [
        Duplicates("val", "train", 2, 4, 11),
        Duplicates("test", "train", 1, 0, 2),
        Duplicates("test", "val", 1, 0, 9),
    ]
    assert report.errors == []
    assert report.warnings[0] == (
        f"{folder}/val: 2 of 12 samples also in train, the same in all modalities; row 4 is row 11 there"
    )


def test_only_what_both_have_makes_samples_the_same(folder: Path) -> None:
    copy_rows(folder, "ab", {4: 11, 5: 12, 6: 13})
    train, val = np.ones((18, 3), dtype=bool), np.ones((12, 3), dtype=bool)
    train[[11, 12], 2] = val[[4, 6], 2] = False  # both lack c; only train does; only val does
    np.save(folder / "train" / "present.npy", train)
    np.save(folder / "val" / "present.npy", val)
    assert check_folder(folder).duplicates == [Duplicates("val", "train", 1, 4, 11)]


def test_what_cannot_be_read_is_the_same_as_nothing(folder: Path) -> None:
    copy_rows(folder, "abc", {4: 11})
    (folder / "val" / "c.npy").unlink()
    report = check_folder(folder)
    assert report.duplicates == []
    assert len(report.errors) == 1
