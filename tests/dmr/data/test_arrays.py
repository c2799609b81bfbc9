from __future__ import annotations

import logging
import pickle
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dmr.data import open_dataset
from dmr.data.arrays import arrays, check_values
from dmr.data.check import check_folder
from dmr.data.dataset import DataError, MultimodalDataset

MakeDataset = Callable[..., MultimodalDataset]
WriteArrays = Callable[..., Path]


@pytest.fixture
def folder(make_dataset: MakeDataset, write_arrays: WriteArrays) -> Path:
    return write_arrays(make_dataset(2, train=18, val=12))


def refuses(folder: Path, message: str) -> None:
    """Opening is refused with one line that has `message` (a regular expression) and the folder."""
    with pytest.raises(DataError, match=message) as caught:
        arrays(folder, seed=0)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)


def test_what_was_written_is_what_is_read(make_dataset: MakeDataset, write_arrays: WriteArrays, folder: Path) -> None:
    written, read = make_dataset(2, train=18, val=12), open_dataset("arrays", {"path": str(folder)}, seed=0)
    assert (read.name, read.task, read.class_names) == ("data", "classification", ("0", "1", "2"))
    assert read.modalities == written.modalities
    assert set(read.splits) == {"train", "val"}
    for name, split in read.splits.items():
        np.testing.assert_array_equal(split.targets(), written.splits[name].labels)
        for modality, array in split.inputs.items():
            assert isinstance(array, np.memmap)
            np.testing.assert_array_equal(array, written.splits[name].inputs[modality])


def test_description_is_kept_and_class_names_are_read(make_dataset: MakeDataset, write_arrays: WriteArrays) -> None:
    names = ["cat", "dog", "eel"]
    folder = write_arrays(make_dataset(), name="set", class_names=names, num_classes=None, licence="CC0")
    read = arrays(folder, seed=0)
    assert read.class_names == ("cat", "dog", "eel")
    assert read.description["licence"] == "CC0"
    assert read.name == "set"
    assert arrays(write_arrays(make_dataset(), name="other") / ".." / "set", seed=0).name == "set"


def test_a_data_set_is_named_after_its_folder_from_inside_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    assert arrays(Path("."), seed=0).name == "data"


@pytest.mark.parametrize("dtype", ["float32", "float16", "uint8"])
def test_types_are_kept(make_dataset: MakeDataset, write_arrays: WriteArrays, dtype: str) -> None:
    folder = write_arrays(make_dataset())
    file = folder / "train" / "a.npy"
    np.save(file, np.abs(np.load(file)).astype(dtype))
    assert str(arrays(folder, seed=0).splits["train"].take(np.array([1, 0]))["a"].dtype) == f"torch.{dtype}"


def test_fortran_order_is_read_like_any_other(folder: Path) -> None:
    file = folder / "train" / "a.npy"
    plain = np.load(file)
    np.save(file, np.asfortranarray(plain))
    rows = np.array([3, 0, 17])
    np.testing.assert_array_equal(arrays(folder, seed=0).splits["train"].take(rows)["a"].numpy(), plain[rows])


def without(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("dataset.yaml", r"dataset\.yaml: no such file; a data folder has a dataset\.yaml"),
        ("train", r"train/label\.npy: no such file"),
        ("train/label.npy", r"train/label\.npy: no such file"),
        ("val/b.npy", r"val/b\.npy: no such file"),
    ],
)
def test_missing_files(folder: Path, missing: str, message: str) -> None:
    without(folder / missing)
    refuses(folder, message)


def array_changed(folder: Path, file: str, change: Callable[[Any], Any]) -> None:
    np.save(folder / file, change(np.load(folder / file)))


def with_label(row: int, label: int) -> Callable[[Any], Any]:
    def change(labels: Any) -> Any:
        labels[row] = label
        return labels

    return change


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("train/a.npy", lambda x: x[:-1], r"train/a\.npy: 17 samples, but label\.npy has 18"),
        ("val/label.npy", with_label(7, 3), r"val/label\.npy: row 7: label 3; allowed are 0 to 2"),
        ("train/label.npy", with_label(2, -1), r"train/label\.npy: row 2: label -1; allowed are 0 to 2"),
        ("train/label.npy", lambda y: y.astype(np.int32), r"int64 of shape \(N,\) is needed, got int32 \(18,\)"),
        ("train/label.npy", lambda y: y[:, None], r"int64 of shape \(N,\) is needed, got int64 \(18, 1\)"),
        ("train/label.npy", lambda y: y[:0], r"train/label\.npy: no samples"),
        ("train/b.npy", lambda x: x.astype(np.float64), r"b\.npy: type float64; allowed are float32, float16, uint8"),
        ("train/b.npy", lambda x: x.astype(">f4"), r"b\.npy: type >f4; allowed are .* in native byte order"),
        ("val/a.npy", lambda x: x[:, :4], r"samples of shape \(4,\); dataset\.yaml says \(5,\)"),
        ("val/a.npy", lambda x: np.float32(1.0), r"samples of shape \(\); dataset\.yaml says \(5,\)"),
        (
            "val/a.npy",
            lambda x: x.astype(object),
            r"val/a\.npy: not a readable \.npy array: pickled objects are not read",
        ),
        (
            "train/label.npy",
            lambda y: np.where(y == 2, 0, y) + 2 * (np.arange(18) == 5),
            r"class '2' has a single sample",
        ),
    ],
)
def test_arrays_that_do_not_fit(folder: Path, file: str, change: Callable[[Any], Any], message: str) -> None:
    array_changed(folder, file, change)
    refuses(folder, message)


@pytest.mark.parametrize("length", [0, 5, 60, 128, 300])
def test_truncated_arrays(folder: Path, length: int) -> None:
    file = folder / "train" / "b.npy"
    assert file.stat().st_size > 300
    file.write_bytes(file.read_bytes()[:length])
    refuses(folder, r"train/b\.npy: not a readable \.npy array: ")


@pytest.mark.parametrize("content", [b"not numpy at all", b"\x93NUMPY\x01\x00\x05\x00hello", b"\x80\x04K\x01."])
def test_files_that_are_no_arrays(folder: Path, content: bytes) -> None:
    (folder / "val" / "a.npy").write_bytes(content)
    refuses(folder, r"val/a\.npy: not a readable \.npy array: ")


def test_an_archive_is_no_array(folder: Path) -> None:
    with (folder / "val" / "a.npy").open("wb") as file:
        np.savez(file, a=np.zeros((12, 5), dtype=np.float32))
    refuses(folder, r"val/a\.npy: not a readable \.npy array: an archive of several arrays")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("task: classification\nmodalities: [a\nnum: 3\n", r"dataset\.yaml, line 3: not YAML: expected"),
        ("a: 1\n\tb: 2\n", r"dataset\.yaml, line 2: not YAML: "),
        ("- a\n- b\n", r"dataset\.yaml: a mapping is needed, got list"),
        ("", r"dataset\.yaml: a mapping is needed, got NoneType"),
        ("task: detection\n", r"dataset\.yaml: task: got 'detection'; allowed are classification, segmentation"),
        ("task: segmentation\n", r"dataset\.yaml: modalities: a list of \{name, kind, shape\} is needed, got None"),
        ("num_classes: 3\n", r"dataset\.yaml: modalities: a list of \{name, kind, shape\} is needed, got None"),
        ("modalities: [a, b]\n", r"modalities\[0\]: a mapping with name, kind and shape is needed, got 'a'"),
        (
            "modalities: [{name: a, kind: odour, shape: [2]}]\n",
            r"modalities\[0\]\.kind: got 'odour'; allowed are vector",
        ),
        (
            "modalities: [{name: a, kind: vector, shape: 2}]\n",
            r"modalities\[0\]\.shape: a list of positive whole numbers",
        ),
        ("modalities: [{name: a, kind: vector, shape: [0]}]\n", r"positive whole numbers is needed, got \[0\]"),
        ("modalities: [{name: a, kind: vector, shape: [true]}]\n", r"positive whole numbers is needed, got \[True\]"),
    ],
)
def test_bad_descriptions(folder: Path, text: str, message: str) -> None:
    (folder / "dataset.yaml").write_text(text, encoding="utf-8")
    refuses(folder, message)


def test_a_description_that_is_not_text(folder: Path) -> None:
    (folder / "dataset.yaml").write_bytes(b"\xff\xfe\x00")
    refuses(folder, r"dataset\.yaml: cannot be read: ")


@pytest.mark.parametrize(
    ("description", "message"),
    [
        ({"num_classes": None}, r"num_classes: a whole number of at least 2 is needed, got None"),
        ({"num_classes": 1}, r"num_classes: a whole number of at least 2 is needed, got 1"),
        ({"num_classes": "three"}, r"num_classes: a whole number of at least 2 is needed, got 'three'"),
        ({"class_names": ["x", "y"]}, r"class_names: a list of num_classes = 3 names is needed, got \['x', 'y'\]"),
    ],
)
def test_bad_classes(
    make_dataset: MakeDataset, write_arrays: WriteArrays, description: dict[str, Any], message: str
) -> None:
    refuses(write_arrays(make_dataset(), **description), message)


def test_bad_modality_names(make_dataset: MakeDataset, write_arrays: WriteArrays) -> None:
    folder = write_arrays(make_dataset(), modalities=[{"name": "a", "kind": "vector", "shape": [5]}])
    with pytest.raises(DataError, match=re.escape("data: 1 modalities given; allowed are 2 to 16")):
        arrays(folder, seed=0)


def test_a_class_without_samples_is_a_warning(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    array_changed(folder, "train/label.npy", lambda y: np.minimum(y, 1))
    arrays(folder, seed=0)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "class '2' has no training sample" in caplog.text


def test_an_absent_val_is_split_from_train_by_class(make_dataset: MakeDataset, write_arrays: WriteArrays) -> None:
    written = make_dataset(2, train=60, classes=3)
    folder = write_arrays(written)
    shutil.rmtree(folder / "val")
    read = arrays(folder, seed=1)
    train, val = read.splits["train"], read.splits["val"]
    assert (len(train), len(val)) == (48, 12)
    assert np.bincount(train.targets()).tolist() == [16, 16, 16]
    assert np.bincount(val.targets()).tolist() == [4, 4, 4]
    assert train.rows is not None
    assert val.rows is not None
    assert sorted([*train.rows, *val.rows]) == list(range(60))
    everything = np.arange(len(val))
    np.testing.assert_array_equal(val.take(everything)["b"], written.splits["train"].inputs["b"][val.rows])
    np.testing.assert_array_equal(arrays(folder, seed=1).splits["val"].rows, val.rows)
    assert not np.array_equal(arrays(folder, seed=2).splits["val"].rows, val.rows)


def test_too_few_samples_to_split_a_val_from(make_dataset: MakeDataset, write_arrays: WriteArrays) -> None:
    folder = write_arrays(make_dataset(2, train=6, classes=3))
    shutil.rmtree(folder / "val")
    refuses(folder, r"train: 6 samples are too few to split a val set from")


def test_sound_values_pass_without_a_word(folder: Path) -> None:
    assert check_values(folder, arrays(folder, seed=0)) == []


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("scanned_bytes", [1, 100, 2**26])
def test_values_that_are_not_finite_are_named(
    folder: Path, value: float, scanned_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dmr.data.scan.SCANNED_BYTES", scanned_bytes)

    def spoil(array: Any) -> Any:
        array[5, 2] = array[9, 0] = value
        return array

    array_changed(folder, "val/b.npy", spoil)
    with pytest.raises(DataError, match=r"val/b\.npy: modality b, split val, row 5: NaN or infinity, and in 1 more"):
        check_values(folder, arrays(folder, seed=0))


@pytest.mark.parametrize("scanned_bytes", [1, 2**26])
def test_a_constant_modality_is_a_warning(folder: Path, scanned_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dmr.data.scan.SCANNED_BYTES", scanned_bytes)
    array_changed(folder, "train/b.npy", lambda x: np.tile(x[:1], (len(x), 1)))
    array_changed(folder, "val/a.npy", lambda x: np.tile(x[:1], (len(x), 1)))
    warnings = check_values(folder, arrays(folder, seed=0))
    assert warnings == [f"{folder}/train/b.npy: modality b is the same in every training sample"]


def test_a_memory_mapped_split_is_pickled_by_path(make_dataset: MakeDataset, write_arrays: WriteArrays) -> None:
    folder = write_arrays(make_dataset(2, train=300, shape=(1000,)))
    (folder / "val").rename(folder / "test")
    dataset = arrays(folder, seed=0)
    content = pickle.dumps(dataset)
    assert dataset.splits["train"].nbytes() > 1_500_000
    assert len(content) < 20_000
    again = pickle.loads(content)
    for name, split in dataset.splits.items():
        np.testing.assert_array_equal(again.splits[name].targets(), split.targets())
        rows = np.arange(len(split))[::7]
        for modality, values in split.take(rows).items():
            assert isinstance(again.splits[name].inputs[modality], np.memmap)
            np.testing.assert_array_equal(again.splits[name].take(rows)[modality], values)


# --- text that YAML reads as something else ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("- cat", "- yes", 'class_names[0]: got True; allowed: text; quote it, as in "yes"'),
        ("- cat", "- No", 'class_names[0]: got False; allowed: text; quote it, as in "no"'),
        ("- cat", "- 010", 'class_names[0]: got 8; allowed: text; quote it, as in "8"'),
        ("- cat", "- 1.10", 'class_names[0]: got 1.1; allowed: text; quote it, as in "1.1"'),
        ("- cat", "- ~", 'class_names[0]: got None; allowed: text; quote it, as in "null"'),
        (
            "- cat",
            "- 2024-01-01",
            'class_names[0]: got datetime.date(2024, 1, 1); allowed: text; quote it, as in "2024-01-01"',
        ),
        ("- cat", "- [cat]", "class_names[0]: got ['cat']; allowed: text"),
        ("- cat", "- eel", "class_names[2]: 'eel' comes twice; names must differ"),
        ("name: a", "name: on", 'modalities[0].name: got True; allowed: text; quote it, as in "yes"'),
        ("name: a", "name: 5", 'modalities[0].name: got 5; allowed: text; quote it, as in "5"'),
        ("name: a", "name: label", "modalities[0].name: got 'label'; label.npy is no file of inputs: rename it"),
        ("task:", "name: off\ntask:", 'name: got False; allowed: text; quote it, as in "no"'),
        ("task:", f"name: {'x' * 256}\ntask:", "name: got 256 letters; allowed are 1 to 255"),
    ],
)
def test_names_that_yaml_reads_as_something_else(
    make_dataset: MakeDataset, write_arrays: WriteArrays, old: str, new: str, message: str
) -> None:
    folder = write_arrays(make_dataset(), class_names=["cat", "dog", "eel"])
    file = folder / "dataset.yaml"
    text = file.read_text()
    assert text.count(old) == 1
    file.write_text(text.replace(old, new))
    message = f"{file}: {message}"
    refuses(folder, f"^{re.escape(message)}$")
    assert check_folder(folder).errors == [message]


def test_quoted_names_are_text(make_dataset: MakeDataset, write_arrays: WriteArrays) -> None:
    folder = write_arrays(make_dataset(), name="data", class_names=["yes", "no", "010"])
    assert arrays(folder, seed=0).class_names == ("yes", "no", "010")
    with (folder / "dataset.yaml").open("a") as file:
        file.write("name:\n")
    assert arrays(folder, seed=0).name == check_folder(folder).name == "data"


def test_names_of_modalities_too_long_for_mlflow(make_dataset: MakeDataset, write_arrays: WriteArrays) -> None:
    written = make_dataset()
    long = {"a": "a" * 100, "b": "b" * 100, "c": "c" * 50}
    splits = {
        name: replace(split, inputs={long[key]: split.inputs["a"] for key in long})
        for name, split in written.splits.items()
    }
    kinds = [{"name": name, "kind": "vector", "shape": [5]} for name in long.values()]
    folder = write_arrays(replace(written, splits=splits), modalities=kinds)
    message = "the names of 3 modalities have 250 letters together; allowed are 218"
    with pytest.raises(DataError, match=f"^data: {message}"):
        arrays(folder, seed=0)
    (error,) = check_folder(folder).errors
    assert error.startswith(f"{folder}/dataset.yaml: modalities: {message}")


# --- where the folder lies, and what val is ---------------------------------------------------------------------------


def test_a_home_is_found(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder.parent))
    assert open_dataset("arrays", {"path": "~/data"}, seed=0).name == "data"


def test_a_drawn_val_is_told_of(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    arrays(folder, seed=0)
    assert caplog.messages == check_folder(folder).warnings == []
    shutil.rmtree(folder / "val")
    arrays(folder, seed=0)
    (line,) = caplog.messages
    assert line.startswith(f"{folder}: no val folder, so a fifth of train is drawn as val; ")
    assert line.endswith("such groups are not kept together and val is too optimistic: then bring a val of your own")
    assert check_folder(folder).warnings == [line]
