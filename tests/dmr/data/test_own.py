"""Data sets from functions of people's own: what is handed over, and one clear line where something is wrong."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dmr.data import open_dataset
from dmr.data.dataset import DataError, MultimodalDataset, Split
from dmr.data.own import own_dataset

MakeDataset = Callable[..., MultimodalDataset]
SOURCE = """
from dataclasses import replace

calls = []

def plain(size, colour="red"):
    calls.append((size, colour))
    return built[0]

def seeded(*, seed):
    calls.append(seed)
    return built[0]

def anything(**options):
    calls.append(options)
    return built[0]

def texts(place: str):
    return built[0]

def numbered():
    return replace(built[0], name="d", class_names=(0, 1, 2))

def failing():
    raise OSError("the disk\\nis gone")

not_a_function = 3
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_dataset: MakeDataset) -> Iterator[Any]:
    (tmp_path / "mine.py").write_text(SOURCE)
    (tmp_path / "broken.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(tmp_path)
    import mine  # type: ignore[import-not-found]

    mine.built = [make_dataset()]
    yield mine
    del sys.modules["mine"]


def test_keys_become_arguments(module: Any) -> None:
    assert open_dataset("mine:plain", {"size": 3}, 7) is module.built[0]
    open_dataset("mine:plain", {"size": 3, "colour": "blue"}, 7)
    open_dataset("mine:seeded", {}, 7)
    open_dataset("mine:seeded", {"seed": 8}, 7)
    open_dataset("mine:anything", {"x": [1]}, 7)
    assert module.calls == [(3, "red"), (3, "blue"), 7, 8, {"x": [1]}]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("mine:plain", {}, "size: this key is needed, a parameter of mine:plain"),
        ("mine:plain", {"size": 1, "shape": 2}, "shape: mine:plain has no such parameter; it has size, colour"),
        ("mine:other", {}, "name: got 'mine:other': mine has no function 'other'"),
        ("mine:not_a_function", {}, "name: got 'mine:not_a_function': mine has no function 'not_a_function'"),
        ("nowhere:f", {}, "name: got 'nowhere:f': nowhere cannot be imported: ModuleNotFoundError: No module named 'n"),
        ("broken:f", {}, "name: got 'broken:f': broken cannot be imported: ZeroDivisionError: division by zero"),
        ("mine:texts", {"place": True}, 'dataset mine:texts: place: got True; allowed: text; quote it, as in "yes"'),
        ("mine:texts", {"place": 1.5}, 'dataset mine:texts: place: got 1.5; allowed: text; quote it, as in "1.5"'),
        ("mine:numbered", {}, "dataset mine:numbered: DataError: d: class_names[0]: got 0; allowed: text; quote it"),
        (":f", {}, "name: got ':f':  cannot be imported: ValueError"),
        ("mine:failing", {}, "dataset mine:failing: OSError: the disk is gone"),
    ],
)
@pytest.mark.usefixtures("module")
def test_functions_that_cannot_be_called(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=f"^{re.escape(message)}") as caught:
        own_dataset(name, options, 0)
    assert "\n" not in str(caught.value)


def changed(data: MultimodalDataset, **fields: Any) -> MultimodalDataset:
    return replace(data, splits=dict(data.splits) | {"train": replace(data.splits["train"], **fields)})


def with_input(data: MultimodalDataset, array: Any) -> MultimodalDataset:
    return changed(data, inputs=dict(data.splits["train"].inputs) | {"b": array})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: {"train": data}, "a MultimodalDataset is needed, it returns dict"),
        (lambda data: replace(data, splits={"train": data.splits["train"]}), "split val is needed; it has train"),
        (lambda data: changed(data, labels=np.zeros(18, np.int32)), "split train: labels: int64 of shape (N,) is"),
        (lambda data: changed(data, labels=np.full(18, 3)), "split train: labels: sample 0: got 3; allowed are 0 to 2"),
        (
            lambda data: changed(data, labels=np.where(np.arange(18) == 7, -1, 0)),
            "split train: labels: sample 7: got -1; allowed are 0 to 2",
        ),
        (lambda data: changed(data, rows=np.array([18])), "split train: rows: int64 from 0 to 17 are needed"),
        (lambda data: changed(data, rows=np.array([], np.int64)), "split train: no samples"),
        (lambda data: changed(data, present=np.ones((18, 3), bool)), "split train: present: bool of shape (18, 2) is"),
        (
            lambda data: changed(data, present=np.arange(18)[:, None] != np.array([4, 4])),
            "split train: present: sample 4 has no modality at all; leave such samples out",
        ),
        (lambda data: with_input(data, np.zeros((18, 5))), "split train: b: type float64; allowed are float32, float"),
        (
            lambda data: with_input(data, np.zeros((17, 5), np.float32)),
            "split train: b: shape (18, 5) is needed, got (17",
        ),
        (
            lambda data: changed(data, inputs=dict(reversed(data.splits["train"].inputs.items()))),
            "split train: inputs are b, a; the modalities are a, b",
        ),
    ],
)
def test_what_nothing_can_be_trained_on(
    module: Any, make_dataset: MakeDataset, change: Callable[[MultimodalDataset], Any], message: str
) -> None:
    module.built[0] = change(make_dataset())
    with pytest.raises(DataError, match=f"^{re.escape(f'dataset mine:anything: {message}')}"):
        own_dataset("mine:anything", {}, 0)


def test_label_maps(module: Any, make_dataset: MakeDataset) -> None:
    data = make_dataset(kind="image", shape=(1, 4, 4))
    maps = {name: Split(split.inputs, np.zeros((len(split), 4, 4), np.int64)) for name, split in data.splits.items()}
    maps["val"].labels[3, 1, 2] = 9
    module.built[0] = replace(data, task="segmentation", splits=maps, ignore_index=9)
    assert own_dataset("mine:anything", {}, 0) is module.built[0]
    module.built[0] = replace(module.built[0], ignore_index=255)
    with pytest.raises(DataError, match="split val: labels: sample 3: got 9; allowed are 0 to 2"):
        own_dataset("mine:anything", {}, 0)
    maps["val"].labels[:] = 255
    with pytest.raises(DataError, match="split val: labels: every pixel is 255, which is ignored; some need a class"):
        own_dataset("mine:anything", {}, 0)
