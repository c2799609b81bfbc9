"""What always answering one class gives."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dmr.data.dataset import Modality, MultimodalDataset, Split
from dmr.without_modalities import value_without_modalities


def dataset(train: list, test: list, task: str = "classification", ignore_index: int | None = None):
    labels = {"train": np.array(train), "test": np.array(test)}
    splits = {name: Split({m: np.zeros((len(y), 2)) for m in "ab"}, y) for name, y in labels.items()}
    modalities = tuple(Modality(name, "vector", (2,)) for name in "ab")
    return MultimodalDataset("d", task, ("x", "y", "z"), modalities, splits, ignore_index=ignore_index)


def test_the_class_is_that_of_train_and_the_share_that_of_test() -> None:
    data = dataset([1, 1, 0, 2], [0, 0, 0, 1, 2])  # class 1; test has it once in five
    assert value_without_modalities(data, "test", "accuracy") == pytest.approx(0.2)
    assert value_without_modalities(data, "test", "nll") == pytest.approx(np.log(2 + np.e) - 0.2)


def test_it_is_of_the_samples_that_have_all_modalities() -> None:
    data = dataset([1, 1, 0, 2], [0, 0, 1, 1, 2])
    present = np.array([[True, False], [True, True], [True, True], [False, True], [True, True]])
    split = replace(data.splits["test"], present=present)
    assert value_without_modalities(replace(data, splits=data.splits | {"test": split}), "test", "accuracy") == (
        pytest.approx(1 / 3)
    )
    split = replace(split, present=np.tile([True, False], (5, 1)))
    assert value_without_modalities(replace(data, splits=data.splits | {"test": split}), "test", "accuracy") is None


def test_of_label_maps_it_is_the_mean_over_classes_without_ignored_pixels() -> None:
    train = [[[2, 2], [2, 9]], [[0, 9], [9, 9]]]  # most pixels are ignored, then of class 2
    data = dataset(train, [[[2, 2], [0, 9]], [[2, 0], [1, 9]]], "segmentation", ignore_index=9)
    assert value_without_modalities(data, "test", "miou") == pytest.approx((3 / 6 + 0 + 0) / 3)
    assert value_without_modalities(data, "test", "pixel_accuracy") == pytest.approx(3 / 6)
