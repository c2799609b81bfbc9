"""Batches of splits in memory and on disk: the samples asked for, in that order, and no copy of the whole."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import dmr.data.batches
import dmr.data.dataset
from dmr.data.batches import AHEAD, Batches, batch_positions, class_chances
from dmr.data.dataset import MultimodalDataset, Split
from dmr.training import RunSettings, fit

MakeDataset = Callable[..., MultimodalDataset]
CPU = torch.device("cpu")


@pytest.fixture(params=[(0, 0), (0, 4096), (2**30, 4096)], ids=["large samples", "small samples", "small split"])
def size_limit(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dmr.data.batches, "RESIDENT_BYTES", request.param[0])
    monkeypatch.setattr(dmr.data.dataset, "LARGE_SAMPLE", request.param[1])


@pytest.fixture
def mapped(tmp_path: Path) -> Split:
    """40 samples on disk, rows of which are known by their values."""
    for name, shape in (("a", (3,)), ("b", (2, 4)), ("label", (5, 6))):
        values = np.arange(40).reshape(40, *[1] * len(shape)) * 1000 + np.arange(np.prod(shape)).reshape(shape)
        np.save(tmp_path / f"{name}.npy", values.astype(np.int64 if name == "label" else np.float32))
    arrays = {name: np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in ("a", "b", "label")}
    return Split({"a": arrays["a"], "b": arrays["b"]}, arrays["label"])


@pytest.mark.usefixtures("size_limit")
@pytest.mark.parametrize("rows", [None, np.array([30, 3, 17, 8, 9, 25, 2, 39])])
def test_a_stream_gives_what_is_asked_for(mapped: Split, rows: np.ndarray[Any, Any] | None) -> None:
    split = replace(mapped, rows=rows)
    batches = Batches(split, CPU)
    asked = list(torch.split(torch.randperm(len(split), generator=torch.Generator().manual_seed(0)), 3))
    streamed = list(batches.stream(asked))
    assert len(streamed) == len(asked)
    for positions, (inputs, labels) in zip(asked, streamed, strict=True):
        wanted = positions.numpy() if rows is None else rows[positions]
        for name in ("a", "b"):
            np.testing.assert_array_equal(inputs[name], mapped.inputs[name][wanted])
            assert inputs[name].is_contiguous()
        np.testing.assert_array_equal(labels, mapped.labels[wanted])
        again, _ = batches.take(positions)
        assert torch.equal(again["b"], inputs["b"])


def test_a_large_split_is_read_ahead_but_not_as_a_whole(mapped: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dmr.data.batches, "RESIDENT_BYTES", 0)
    asked: list[int] = []

    def positions() -> Iterator[torch.Tensor]:
        for n in range(10):
            asked.append(n)
            yield torch.arange(4 * n, 4 * n + 4)

    stream = Batches(mapped, CPU).stream(positions())
    for n in range(10 - AHEAD):
        next(stream)
        assert asked == list(range(n + 1 + AHEAD))
    assert len(list(stream)) == AHEAD


def test_a_file_that_is_gone_ends_the_stream(mapped: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dmr.data.batches, "RESIDENT_BYTES", 0)
    stream = Batches(mapped, CPU).stream([torch.arange(3), torch.tensor([99])])
    next(stream)
    with pytest.raises(IndexError, match="out of bounds"):
        next(stream)


def test_batches_hold_the_arrays_of_the_split_themselves(mapped: Split) -> None:
    batches = Batches(mapped, CPU)
    assert batches.resident is None
    assert batches.split.inputs["a"] is mapped.inputs["a"]
    assert isinstance(batches.split.labels, np.memmap)
    inputs, labels = batches.take(torch.arange(40))
    inputs["a"].zero_()
    labels.zero_()
    assert mapped.inputs["a"][1, 0] == 1000
    assert mapped.labels[1, 0, 0] == 1000


def test_read_only_arrays_are_taken_from(mapped: Split, recwarn: pytest.WarningsRecorder) -> None:
    """As Ray's object store hands them out."""
    inputs = {name: np.array(array) for name, array in mapped.inputs.items()}
    for array in inputs.values():
        array.flags.writeable = False
    taken, _ = Batches(Split(inputs, mapped.labels), CPU).take(torch.tensor([2, 1]))
    taken["a"].zero_()
    assert inputs["a"][2, 0] == 2000
    assert len(recwarn) == 0


def test_label_maps_one_after_the_other_are_not_copied(mapped: Split) -> None:
    part = replace(mapped, rows=np.array([7, 3]))
    found = list(part.each_target())
    np.testing.assert_array_equal(found, part.targets())
    assert all(np.shares_memory(label, mapped.labels) for label in found)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.usefixtures("size_limit")
def test_a_gpu_gets_the_same_batches(mapped: Split) -> None:
    split = replace(mapped, rows=np.array([30, 3, 17, 8, 9, 25, 2, 39]))
    asked = list(torch.split(torch.randperm(8, generator=torch.Generator().manual_seed(0)), 3))
    on_gpu, on_cpu = Batches(split, torch.device("cuda")), Batches(split, CPU)
    assert (on_gpu.resident is None) == on_gpu.large
    for (inputs, labels), (same, targets) in zip(on_gpu.stream(asked), on_cpu.stream(asked), strict=True):
        assert inputs["b"].is_cuda
        assert torch.equal(inputs["b"].cpu(), same["b"])
        assert torch.equal(labels.cpu(), targets)


@pytest.mark.parametrize(
    "part",
    [
        lambda array: array,
        lambda array: array[7:30],
        lambda array: array[12],
        lambda array: array.T,
        lambda array: array[::2],
        lambda array: array[:, 1:],
    ],
)
def test_memory_maps_are_pickled_by_where_they_lie(mapped: Split, part: Callable[[Any], Any]) -> None:
    array = part(mapped.inputs["b"])
    split = Split({"b": array}, mapped.labels)
    pickled = pickle.dumps(split)
    again = pickle.loads(pickled)
    np.testing.assert_array_equal(again.inputs["b"], array)
    assert isinstance(again.labels, np.memmap)
    if array.flags.c_contiguous or array.flags.f_contiguous:
        assert isinstance(again.inputs["b"], np.memmap)
        assert len(pickled) < 2000


@pytest.mark.usefixtures("size_limit")
def test_a_run_from_disk_is_the_run_from_memory_bit_for_bit(
    tmp_path: Path,
    make_dataset: MakeDataset,
    make_settings: Callable[..., RunSettings],
    memory_reporter: Any,
    assert_identical: Callable[..., None],
) -> None:
    data = make_dataset(2)
    settings = make_settings(data)
    in_memory, on_disk = memory_reporter(), memory_reporter()
    fit(data, settings, CPU, in_memory)
    splits = {}
    for split, samples in data.splits.items():
        for name, array in samples.inputs.items():
            np.save(tmp_path / f"{split}-{name}.npy", array)
        inputs = {name: np.load(tmp_path / f"{split}-{name}.npy", mmap_mode="r") for name in samples.inputs}
        splits[split] = replace(samples, inputs=inputs)
    report = fit(replace(data, splits=splits), settings, CPU, on_disk)
    assert_identical(on_disk.states, in_memory.states)
    again = memory_reporter(on_disk.states[0])
    assert fit(replace(data, splits=splits), settings, CPU, again) == report
    assert_identical(again.states[-1], in_memory.states[-1])


# ---- class-balanced sampling -----------------------------------------------------------------------------------------


def test_every_class_comes_as_often(make_dataset: MakeDataset) -> None:
    data = make_dataset(train=400, classes=3)
    labels = np.array([0] * 300 + [1] * 90 + [2] * 10)
    split = replace(data.splits["train"], labels=labels)
    chances = class_chances(replace(data, splits=dict(data.splits) | {"train": split}))
    np.testing.assert_allclose([chances[labels == c].sum() for c in range(3)], 1 / 3)
    assert len(chances[labels == 2].unique()) == 1
    drawn = [torch.cat(list(batch_positions(400, 7, torch.Generator().manual_seed(n), chances))) for n in range(30)]
    assert {len(positions) for positions in drawn} == {399}  # the last one would be a batch of its own
    found = np.bincount(labels[torch.cat(drawn)], minlength=3) / (30 * 400)
    np.testing.assert_allclose(found, 1 / 3, atol=0.02)  # 4.6 standard deviations
    again = torch.cat(list(batch_positions(400, 7, torch.Generator().manual_seed(0), chances)))
    assert torch.equal(again, drawn[0])


def test_a_balanced_run_goes_on_bit_for_bit(
    make_dataset: MakeDataset,
    make_settings: Callable[..., RunSettings],
    memory_reporter: Any,
    assert_identical: Callable[..., None],
) -> None:
    data = make_dataset()
    settings = make_settings(data, class_balanced=True)
    whole, plain = memory_reporter(), memory_reporter()
    report = fit(data, settings, CPU, whole)
    again = memory_reporter(whole.states[0])
    assert fit(data, settings, CPU, again) == report
    assert_identical(again.states[-1], whole.states[-1])
    assert fit(data, make_settings(data), CPU, plain).metrics != report.metrics


def test_maps_have_no_single_class(make_maps: MakeDataset) -> None:
    with pytest.raises(ValueError, match="class_balanced: a sample of segmentation has no single class"):
        class_chances(make_maps())
