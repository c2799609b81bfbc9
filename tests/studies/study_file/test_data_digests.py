"""What a data set is known by: its content, whenever it was written and wherever it lies, read once."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dmr.data.dataset import Modality, MultimodalDataset, Split
from dmr.studies.study_file import data_digests as module
from dmr.studies.study_file.data_digests import dataset_facts, split_digests

LABELS = np.array([0, 1, 0, 1])
X = np.arange(12, dtype=np.float32).reshape(4, 3)


def dataset(x: np.ndarray = X, **train: np.ndarray) -> MultimodalDataset:
    y = np.zeros((4, 2, 5), dtype=np.uint8)
    own = {"labels": LABELS, **train}
    splits = {
        "train": Split({"x": x, "y": y}, own.pop("labels"), **own),
        "val": Split({"x": X, "y": y}, LABELS, rows=np.array([0, 2])),
    }
    modalities = (Modality("x", "vector", (3,)), Modality("y", "image", (2, 5)))
    return MultimodalDataset("d", "classification", ("a", "b"), modalities, splits)


def data_digests(of: MultimodalDataset) -> dict[str, str]:
    return dataset_facts(of) | split_digests(of, "train") | split_digests(of, "val")


@pytest.fixture(autouse=True)
def reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes of the memory maps that were read; nothing is remembered before the test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    read: list[tuple[int, ...]] = []
    real = module.content_digest

    def counted(array: np.ndarray) -> str:
        read.extend([array.shape] if isinstance(array, np.memmap) else [])
        return real(array)

    monkeypatch.setattr(module, "content_digest", counted)
    return read


@pytest.mark.parametrize(
    ("other", "changed"),
    [
        (dataset(X + 1), ["train/x"]),
        (dataset(X.astype(np.float16)), ["train/x"]),
        (dataset(labels=LABELS[::-1].copy()), ["train/label"]),
        (dataset(rows=np.array([0, 1])), ["train/rows"]),
        (dataset(present=np.array([[True, False]] * 4)), ["train/present"]),
        (replace(dataset(), class_names=("b", "a")), ["class_names"]),
        (replace(dataset(), ignore_index=255), ["ignore_index"]),
        (replace(dataset(), name="moved", description={"source": "there"}), []),
    ],
)
def test_every_part_has_its_own(other: MultimodalDataset, changed: list[str]) -> None:
    before, after = data_digests(dataset()), data_digests(other)
    assert [key for key in {**before, **after} if before.get(key) != after.get(key)] == changed


def test_the_same_values_in_a_file_of_another_order_or_in_memory_are_the_same(tmp_path: Path) -> None:
    for order, file in (("C", tmp_path / "c.npy"), ("F", tmp_path / "f.npy")):
        np.save(file, np.asarray(X, order=order))
        assert data_digests(dataset(np.load(file, mmap_mode="r"))) == data_digests(dataset())
    np.save(tmp_path / "large.npy", np.concatenate([X, X + 1]))
    for part, same in ((slice(0, 4), True), (slice(4, 8), False)):  # of one file
        found = data_digests(dataset(np.load(tmp_path / "large.npy", mmap_mode="r")[part]))
        assert (found == data_digests(dataset())) is same


def touch(file: Path) -> None:
    os.utime(file, (0, 0))


def change(file: Path) -> None:
    with file.open("r+b") as opened:
        opened.seek(-4, os.SEEK_END)
        opened.write(np.float32(99).tobytes())


def change_and_keep_its_time(file: Path) -> None:
    before = file.stat()
    change(file)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def put_another_of_the_same_time(file: Path) -> None:
    other = file.with_name("other.npy")
    np.save(other, X + 1)
    shutil.copystat(file, other)
    other.replace(file)


@pytest.mark.parametrize(
    ("done", "same"),
    [(touch, True), (change, False), (change_and_keep_its_time, False), (put_another_of_the_same_time, False)],
)
def test_a_file_is_read_once_until_it_may_have_changed(
    tmp_path: Path, reads: list[tuple[int, ...]], done: Callable[[Path], None], same: bool
) -> None:
    file = tmp_path / "x.npy"
    np.save(file, X)
    before = [data_digests(dataset(np.load(file, mmap_mode="r"))) for _ in range(2)]
    assert reads == [(4, 3)]
    time.sleep(0.02)  # clocks of file systems tick every few milliseconds
    done(file)
    after = data_digests(dataset(np.load(file, mmap_mode="r")))
    assert reads == [(4, 3)] * 2
    assert before[0] == before[1]
    assert (after == before[0]) is same


def test_a_copy_has_the_same_digests(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    np.save(tmp_path / "a/x.npy", X)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    one, two = (dataset(np.load(tmp_path / folder / "x.npy", mmap_mode="r")) for folder in "ab")
    assert data_digests(one) == data_digests(two)


def test_a_home_that_cannot_be_written_costs_the_reading_again(
    tmp_path: Path, reads: list[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    np.save(tmp_path / "x.npy", X)
    for _ in range(2):
        data_digests(dataset(np.load(tmp_path / "x.npy", mmap_mode="r")))
    assert len(reads) == 2
