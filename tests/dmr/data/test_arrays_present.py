from __future__ import annotations

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dmr.data.arrays import arrays, check_values
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
def folder(make_dataset: MakeDataset, write_arrays: WriteArrays) -> Path:
    return write_arrays(make_dataset(2, train=18, val=12))


def some_present(samples: int) -> Any:
    """(N, 2): both modalities, the first, the second, both, ..."""
    return np.array([[True, True], [True, False], [False, True]])[np.arange(samples) % 3]


def test_what_is_present_is_read(folder: Path) -> None:
    assert arrays(folder, seed=0).splits["train"].present is None
    assert arrays(folder, seed=0).splits["train"].has().tolist() == [[True, True]] * 18
    np.save(folder / "train" / "present.npy", some_present(18))
    read = arrays(folder, seed=0)
    np.testing.assert_array_equal(read.splits["train"].has(), some_present(18))
    assert read.splits["val"].present is None


def test_what_is_present_goes_with_the_rows_of_a_split_val(folder: Path) -> None:
    shutil.rmtree(folder / "val")
    np.save(folder / "train" / "present.npy", some_present(18))
    read = arrays(folder, seed=0)
    for split in read.splits.values():
        np.testing.assert_array_equal(split.has(), some_present(18)[split.rows])
        np.testing.assert_array_equal(pickle.loads(pickle.dumps(split)).has(), split.has())


def none_left(present: Any) -> Any:
    present[[4, 9]] = False
    return present


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x[:3], r"train/present\.npy: bool of shape \(18, 2\) is needed, got bool \(3, 2\)"),
        (lambda x: x[:, :1], r"train/present\.npy: bool of shape \(18, 2\) is needed, got bool \(18, 1\)"),
        (lambda x: x[:, 0], r"train/present\.npy: bool of shape \(18, 2\) is needed, got bool \(18,\)"),
        (lambda x: x.astype(np.uint8), r"train/present\.npy: bool of shape \(18, 2\) is needed, got uint8 \(18, 2\)"),
        (lambda x: x.astype(object), r"train/present\.npy: not a readable \.npy array: pickled objects are not read"),
        (none_left, r"train/present\.npy: row 4 has no modality at all; leave such samples out"),
    ],
)
def test_present_that_does_not_fit(folder: Path, change: Callable[[Any], Any], message: str) -> None:
    np.save(folder / "train" / "present.npy", change(some_present(18)))
    refuses(folder, message)


def test_present_cut_in_half(folder: Path) -> None:
    file = folder / "val" / "present.npy"
    np.save(file, some_present(12))
    file.write_bytes(file.read_bytes()[:140])
    refuses(folder, r"val/present\.npy: not a readable \.npy array: ")


@pytest.mark.parametrize("scanned_bytes", [1, 100, 2**26])
def test_absent_inputs_need_not_be_finite(folder: Path, scanned_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dmr.data.scan.SCANNED_BYTES", scanned_bytes)
    np.save(folder / "train" / "present.npy", some_present(18))

    def spoil(array: Any) -> Any:
        array[~some_present(18)[:, 1]] = np.nan
        return array

    array_changed(folder, "train/b.npy", spoil)
    assert check_values(folder, arrays(folder, seed=0)) == []
    array_changed(folder, "train/b.npy", with_value((11, 3), np.inf))
    with pytest.raises(DataError, match=r"train/b\.npy: modality b, split train, row 11: NaN or infinity"):
        check_values(folder, arrays(folder, seed=0))


def test_absent_inputs_do_not_hide_a_constant_modality(folder: Path) -> None:
    np.save(folder / "train" / "present.npy", some_present(18))
    array_changed(folder, "train/b.npy", lambda x: np.where(some_present(18)[:, 1:], np.full_like(x, 7.0), x))
    assert check_values(folder, arrays(folder, seed=0)) == [
        f"{folder}/train/b.npy: modality b is the same in every training sample"
    ]
