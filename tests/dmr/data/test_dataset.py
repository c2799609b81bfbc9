from __future__ import annotations

import pickle
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import dmr.data.batches
import dmr.data.dataset
from dmr.data.batches import Batches
from dmr.data.dataset import DataError, Modality, MultimodalDataset, Split, input_statistics, stratified_split

MakeDataset = Callable[..., MultimodalDataset]


@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=80),
    st.sampled_from([(0.8, 0.2), (0.6, 0.2, 0.2), (0.5, 0.5)]),
    st.integers(0, 100),
)
def test_a_stratified_split_divides_every_class(labels: list[int], fractions: tuple[float, ...], seed: int) -> None:
    array = np.array(labels, dtype=np.int64)
    parts = stratified_split(array, fractions, seed)
    assert sorted(np.concatenate(parts)) == list(range(len(labels)))
    for part, fraction in zip(parts, fractions, strict=True):
        assert (np.diff(part) > 0).all()
        for label in set(labels):
            assert abs((array[part] == label).sum() - fraction * (array == label).sum()) <= 1


def test_a_stratified_split_depends_on_its_seed_alone(
    under_two_global_seeds: Callable[[Callable[[], Any]], tuple[Any, Any]],
) -> None:
    labels = np.arange(60) % 3
    one, other = under_two_global_seeds(lambda: stratified_split(labels, (0.5, 0.5), seed=4))
    np.testing.assert_array_equal(one, other)
    assert not np.array_equal(one, stratified_split(labels, (0.5, 0.5), seed=5))


def test_statistics_of_vectors_are_by_feature_and_of_images_by_channel() -> None:
    draw = np.random.default_rng(0)
    vector = draw.normal(3.0, 2.0, (50, 4)).astype(np.float32)
    image = draw.integers(0, 256, (50, 3, 5, 6), dtype=np.uint8)
    frames = draw.normal(np.arange(3)[:, None, None], 1.0, (50, 2, 3, 5, 6)).astype(np.float32)
    train = Split({"v": vector, "i": image, "f": frames}, np.zeros(50, dtype=np.int64))
    modalities = (
        Modality("v", "vector", (4,)),
        Modality("i", "image", (3, 5, 6)),
        Modality("f", "frames", (2, 3, 5, 6)),
    )
    statistics = input_statistics(MultimodalDataset("x", "classification", ("0", "1"), modalities, {"train": train}))
    np.testing.assert_allclose(statistics["v"].mean, vector.astype(np.float64).mean(0), rtol=1e-6)
    np.testing.assert_allclose(statistics["v"].std, vector.astype(np.float64).std(0), rtol=1e-6)
    np.testing.assert_allclose(statistics["i"].mean.flatten(), image.mean((0, 2, 3)), rtol=1e-6)
    np.testing.assert_allclose(statistics["i"].std.flatten(), image.std((0, 2, 3)), rtol=1e-6)
    assert statistics["i"].mean.shape == (3, 1, 1)
    np.testing.assert_allclose(statistics["f"].mean.flatten(), frames.mean((0, 1, 3, 4)), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(statistics["f"].std.flatten(), frames.std((0, 1, 3, 4)), rtol=1e-4)
    assert statistics["f"].mean.shape == (1, 3, 1, 1)


@pytest.mark.parametrize("level", [0.0, 1e-8, 7.0, 1e6])
def test_a_constant_input_keeps_the_deviation_one(make_dataset: MakeDataset, level: float) -> None:
    dataset = make_dataset()
    dataset.splits["train"].inputs["a"][:, 1] = level
    statistics = input_statistics(dataset)["a"]
    assert statistics.std[1] == 1.0
    assert statistics.mean[1].item() == pytest.approx(level)
    assert statistics.std[0] != 1.0


def test_statistics_come_from_train_and_from_few_samples_where_there_are_many(
    make_dataset: MakeDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = make_dataset(train=40)
    inputs = dataset.splits["train"].inputs["a"].astype(np.float64)
    monkeypatch.setattr(dmr.data.dataset, "STATISTICS_ROWS", 4)
    np.testing.assert_allclose(input_statistics(dataset)["a"].mean, inputs[[0, 13, 26, 39]].mean(0), rtol=1e-5)
    monkeypatch.setattr(dmr.data.dataset, "STATISTICS_BYTES", 3 * 5 * 8)
    np.testing.assert_allclose(input_statistics(dataset)["a"].mean, inputs[[0, 19, 39]].mean(0), rtol=1e-5)


def test_statistics_are_of_the_samples_that_have_a_modality(
    make_dataset: MakeDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = make_dataset(train=40)
    train = dataset.splits["train"]
    present = np.ones((40, 2), dtype=bool)
    present[np.arange(40) % 4 != 1, 0] = False
    incomplete = replace(dataset, splits={"train": replace(train, present=present)})
    train.inputs["a"][~present[:, 0]] = np.nan
    of_a = train.inputs["a"][1::4].astype(np.float64)
    statistics = input_statistics(incomplete)
    np.testing.assert_allclose(statistics["a"].mean, of_a.mean(0), rtol=1e-5)
    np.testing.assert_allclose(statistics["a"].std, of_a.std(0), rtol=1e-5)
    np.testing.assert_allclose(statistics["b"].mean, train.inputs["b"].astype(np.float64).mean(0), rtol=1e-5)
    rows = np.arange(1, 20)
    part = replace(dataset, splits={"train": replace(train, present=present, rows=rows)})
    of_part = train.inputs["a"][[1, 5, 9, 13, 17]].astype(np.float64)
    np.testing.assert_allclose(input_statistics(part)["a"].mean, of_part.mean(0), rtol=1e-5)
    monkeypatch.setattr(dmr.data.dataset, "STATISTICS_ROWS", 2)
    np.testing.assert_allclose(input_statistics(incomplete)["a"].mean, of_a[[0, 9]].mean(0), rtol=1e-5)


def test_a_modality_no_training_sample_has_is_refused(make_dataset: MakeDataset) -> None:
    dataset = make_dataset()
    present = np.tile([True, False], (18, 1))
    incomplete = replace(dataset, splits={"train": replace(dataset.splits["train"], present=present)})
    with pytest.raises(DataError, match=r"^small: no training sample has modality b$"):
        input_statistics(incomplete)


def test_a_split_by_rows(make_dataset: MakeDataset) -> None:
    whole = make_dataset().splits["train"]
    part = Split(whole.inputs, whole.labels, np.array([5, 2, 11]))
    assert len(part) == 3
    np.testing.assert_array_equal(part.targets(), whole.labels[[5, 2, 11]])
    np.testing.assert_array_equal(part.take(np.array([2, 0]))["b"], whole.inputs["b"][[11, 5]])
    assert list(part.take(np.array([0]), ["b"])) == ["b"]
    assert part.nbytes() == whole.nbytes() * 3 // 18
    again = pickle.loads(pickle.dumps(part))
    np.testing.assert_array_equal(again.take(np.array([1]))["a"], whole.inputs["a"][[2]])


def test_what_is_taken_is_a_copy(make_dataset: MakeDataset) -> None:
    split = make_dataset().splits["train"]
    before = split.inputs["a"].copy()
    split.take(np.arange(len(split)))["a"].zero_()
    np.testing.assert_array_equal(split.inputs["a"], before)


@pytest.mark.parametrize("resident_bytes", [0, 2**30])
def test_batches_give_the_samples_at_the_positions(
    make_dataset: MakeDataset, resident_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dmr.data.batches, "RESIDENT_BYTES", resident_bytes)
    whole = make_dataset().splits["train"]
    part = Split(whole.inputs, whole.labels, np.array([5, 2, 11, 7]))
    batches = Batches(part, torch.device("cpu"))
    assert batches.large == (resident_bytes == 0)
    assert len(batches) == 4
    inputs, labels = batches.take(torch.tensor([3, 1]))
    np.testing.assert_array_equal(inputs["a"], whole.inputs["a"][[7, 2]])
    np.testing.assert_array_equal(labels, whole.labels[[7, 2]])


def test_a_data_set_checks_its_modalities() -> None:
    with pytest.raises(DataError, match="twins: modality names must differ: a, a"):
        MultimodalDataset("twins", "classification", ("0", "1"), (Modality("a", "vector", (1,)),) * 2, {})


@pytest.mark.parametrize(
    ("name", "classes", "modalities", "message"),
    [
        ("d", ("x", False), "ab", 'd: class_names[1]: got False; allowed: text; quote it, as in "no"'),
        ("d", (0, 1), "ab", 'd: class_names[0]: got 0; allowed: text; quote it, as in "0"'),
        ("d", ("x", "y", "x"), "ab", "d: class_names[2]: 'x' comes twice; names must differ"),
        ("d", ("x", "y"), ("a" * 101, "b"), f"d: modality name {'a' * 101!r} has 101 letters; allowed are 100"),
        (3, ("x", "y"), "ab", 'name: got 3; allowed: text; quote it, as in "3"'),
        ("d" * 256, ("x", "y"), "ab", "name: got 256 letters; allowed are 1 to 255"),
        ("", ("x", "y"), "ab", "name: got 0 letters; allowed are 1 to 255"),
    ],
)
def test_a_data_set_checks_its_names(name: Any, classes: tuple[Any, ...], modalities: Any, message: str) -> None:
    kinds = tuple(Modality(modality, "vector", (1,)) for modality in modalities)
    with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
        MultimodalDataset(name, "classification", classes, kinds, {})
