from __future__ import annotations

import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dmr.data.arrays import arrays
from dmr.data.check import check_folder
from dmr.data.dataset import DataError, MultimodalDataset

MakeDataset = Callable[..., MultimodalDataset]
WriteArrays = Callable[..., Path]


def refuses(folder: Path, message: str) -> None:
    """Opening is refused with one line that has `message` (a regular expression) and the folder."""
    with pytest.raises(DataError, match=message) as caught:
        arrays(folder, seed=0)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)


def array_changed(folder: Path, file: str, change: Callable[[Any], Any]) -> None:
    np.save(folder / file, change(np.load(folder / file)))


def with_value(at: int | tuple[int, ...], value: float) -> Callable[[Any], Any]:
    def change(array: Any) -> Any:
        array[at] = value
        return array

    return change


@pytest.fixture
def maps(make_maps: MakeDataset, write_arrays: WriteArrays) -> Path:
    return write_arrays(make_maps(train=10), task="segmentation", ignore_index=255)


def test_label_maps_are_read_and_stay_on_disk(make_maps: MakeDataset, maps: Path) -> None:
    written, read = make_maps(train=10), arrays(maps, seed=0)
    assert (read.task, read.ignore_index, read.class_names) == ("segmentation", 255, ("0", "1", "2"))
    for name, split in read.splits.items():
        assert isinstance(split.labels, np.memmap)
        np.testing.assert_array_equal(split.targets(), written.splits[name].labels)


@pytest.mark.parametrize("ignored", [-1, -100, 3, 255])
def test_any_label_that_is_no_class_can_be_ignored(
    make_maps: MakeDataset, write_arrays: WriteArrays, ignored: int
) -> None:
    dataset = make_maps(ignore_index=ignored)
    folder = write_arrays(dataset, task="segmentation", ignore_index=ignored)
    assert arrays(folder, seed=0).ignore_index == ignored
    assert (arrays(folder, seed=0).splits["val"].labels[:, 0] == ignored).all()


def test_label_maps_without_an_ignored_label(make_maps: MakeDataset, write_arrays: WriteArrays) -> None:
    folder = write_arrays(make_maps(ignore_index=None), task="segmentation")
    assert arrays(folder, seed=0).ignore_index is None
    array_changed(folder, "val/label.npy", with_value((3, 2, 1), 255))
    refuses(folder, r"val/label\.npy: row 3: label 255; allowed are 0 to 2$")


@pytest.mark.parametrize("scanned_bytes", [1, 3 * 16 * 16 * 8, 2**26])
@pytest.mark.parametrize("label", [3, -1, 254])
def test_labels_of_pixels_out_of_range(
    maps: Path, label: int, scanned_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dmr.data.scan.SCANNED_BYTES", scanned_bytes)
    array_changed(maps, "train/label.npy", with_value((7, 4, 9), label))
    refuses(maps, rf"train/label\.npy: row 7: label {label}; allowed are 0 to 2 and 255")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda y: y[:, 0], r"val/label\.npy: int64 of shape \(N, H, W\) is needed, got int64 \(6, 16\)"),
        (lambda y: y.astype(np.uint8), r"int64 of shape \(N, H, W\) is needed, got uint8 \(6, 16, 16\)"),
        (lambda y: y[:0], r"val/label\.npy: no samples"),
        (lambda y: y[:5], r"val/a\.npy: 6 samples, but label\.npy has 5"),
        (lambda y: y[:, :8], r"val/label\.npy: label maps of 8 × 16; those of train have 16 × 16"),
    ],
)
def test_label_maps_that_do_not_fit(maps: Path, change: Callable[[Any], Any], message: str) -> None:
    array_changed(maps, "val/label.npy", change)
    refuses(maps, message)


@pytest.mark.parametrize(
    ("description", "message"),
    [
        ({"ignore_index": "void"}, r"ignore_index: a whole number, for segmentation, got 'void'"),
        ({"ignore_index": True}, r"ignore_index: a whole number, for segmentation, got True"),
        ({"ignore_index": 255.0}, r"ignore_index: a whole number, for segmentation, got 255\.0"),
        ({"task": "classification"}, r"ignore_index: a whole number, for segmentation, got 255"),
    ],
)
def test_bad_ignore_index(
    make_maps: MakeDataset, write_arrays: WriteArrays, description: dict[str, Any], message: str
) -> None:
    folder = write_arrays(make_maps(), **{"task": "segmentation", "ignore_index": 255} | description)
    refuses(folder, r"dataset\.yaml: " + message)


def test_a_class_cannot_be_ignored(make_maps: MakeDataset, write_arrays: WriteArrays) -> None:
    folder = write_arrays(make_maps(ignore_index=None), task="segmentation", ignore_index=2)
    with pytest.raises(DataError, match=r"data: ignore_index: got 2, the label of a class; .* not among 0 to 2"):
        arrays(folder, seed=0)


def test_an_absent_val_of_label_maps_is_split_from_train(maps: Path) -> None:
    shutil.rmtree(maps / "val")
    read = arrays(maps, seed=1)
    train, val = read.splits["train"], read.splits["val"]
    assert (len(train), len(val)) == (8, 2)
    assert train.rows is not None
    assert val.rows is not None
    assert sorted([*train.rows, *val.rows]) == list(range(10))
    np.testing.assert_array_equal(val.targets(), np.load(maps / "train" / "label.npy")[val.rows])
    assert any(not np.array_equal(arrays(maps, seed=seed).splits["val"].rows, val.rows) for seed in range(2, 6))


def test_memory_mapped_label_maps_are_pickled_by_path(make_maps: MakeDataset, write_arrays: WriteArrays) -> None:
    dataset = arrays(write_arrays(make_maps(train=200), task="segmentation", ignore_index=255), seed=0)
    assert dataset.splits["train"].labels.nbytes == 200 * 16 * 16 * 8
    content = pickle.dumps(dataset)
    assert len(content) < 20_000
    again = pickle.loads(content)
    assert isinstance(again.splits["train"].labels, np.memmap)
    np.testing.assert_array_equal(again.splits["train"].labels, dataset.splits["train"].labels)


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_split_in_which_every_pixel_is_ignored(maps: Path, split: str) -> None:
    array_changed(maps, f"{split}/label.npy", lambda y: np.full_like(y, 255))
    message = f"{maps}/{split}/label.npy: every pixel has the label 255, which is ignored; some must have a class"
    refuses(maps, f"^{message}$")
    assert message in check_folder(maps).errors


@pytest.mark.parametrize(("kept", "name", "samples"), [("train", "val", 2), ("val", "train", 8)])
def test_a_drawn_split_in_which_every_pixel_is_ignored(maps: Path, kept: str, name: str, samples: int) -> None:
    shutil.rmtree(maps / "val")
    rows = arrays(maps, seed=0).splits[kept].rows
    array_changed(maps, "train/label.npy", lambda y: np.where(np.isin(np.arange(10), rows)[:, None, None], y, 255))
    message = f"train/label\\.npy: every pixel of the {samples} samples drawn for {name} has the label 255, which is"
    refuses(maps, message)
    (error,) = check_folder(maps).errors
    assert re.search(message, error)
