from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_digits

from dmr.data import open_dataset


def test_the_quadrants_put_together_are_the_digits(
    under_two_global_seeds: Callable[[Callable[[], Any]], tuple[Any, Any]],
) -> None:
    dataset, again = under_two_global_seeds(lambda: open_dataset("digits", {}, seed=0))
    assert dataset.modality_names == ("top_left", "top_right", "bottom_left", "bottom_right")
    assert {m.shape for m in dataset.modalities} == {(16,)}
    assert {name: len(split) for name, split in dataset.splits.items()} == {"train": 1078, "val": 360, "test": 359}
    images, labels = load_digits(return_X_y=True)
    known = {image.tobytes(): label for image, label in zip((images / 16).astype(np.float32), labels, strict=True)}
    seen = []
    for name, split in dataset.splits.items():
        quadrant = {m: array.reshape(-1, 4, 4) for m, array in split.inputs.items()}
        top = np.concatenate([quadrant["top_left"], quadrant["top_right"]], axis=2)
        bottom = np.concatenate([quadrant["bottom_left"], quadrant["bottom_right"]], axis=2)
        whole = np.ascontiguousarray(np.concatenate([top, bottom], axis=1).reshape(-1, 64))
        assert [known[image.tobytes()] for image in whole] == split.targets().tolist()
        seen += [image.tobytes() for image in whole]
        share = np.bincount(split.targets(), minlength=10) / np.bincount(labels)
        np.testing.assert_allclose(share, len(split) / len(labels), atol=0.01)
        np.testing.assert_array_equal(again.splits[name].targets(), split.targets())
    assert sorted(seen) == sorted(image.tobytes() for image in (images / 16).astype(np.float32))


def test_few_samples_are_of_every_class_and_of_the_same_split() -> None:
    whole, few = open_dataset("digits", {}, 0), open_dataset("digits", {"train": 216}, 0)
    labels = few.splits["train"].targets()
    assert len(labels) == 216
    expected = np.bincount(whole.splits["train"].targets()) * 216 / 1078
    np.testing.assert_allclose(np.bincount(labels), expected, atol=1.0)
    rows = {row.tobytes() for row in whole.splits["train"].inputs["top_left"]}
    assert all(row.tobytes() in rows for row in few.splits["train"].inputs["top_left"])
    np.testing.assert_array_equal(few.splits["test"].targets(), whole.splits["test"].targets())


def test_another_seed_is_another_split() -> None:
    one, other = (open_dataset("digits", {"seed": seed}, 0).splits for seed in (0, 1))
    assert {name: len(split) for name, split in one.items()} == {name: len(split) for name, split in other.items()}
    assert not np.array_equal(one["test"].inputs["top_left"], other["test"].inputs["top_left"])


@pytest.mark.parametrize(("name", "options"), [("digits", {}), ("planted", {"train": 1000, "val": 50, "test": 50})])
def test_so_many_training_labels_are_wrong_and_no_others(name: str, options: dict[str, Any]) -> None:
    clean, noisy = (open_dataset(name, options | {"label_noise": share}, 0).splits for share in (0.0, 0.4))
    wrong = clean["train"].targets() != noisy["train"].targets()
    assert wrong.sum() == round(0.4 * len(wrong))
    moves = (noisy["train"].targets() - clean["train"].targets())[wrong] % (clean["train"].targets().max() + 1)
    assert np.bincount(moves)[1:].min() > 0.5 * np.bincount(moves)[1:].mean()  # every other class alike
    for split in ("val", "test"):
        np.testing.assert_array_equal(clean[split].targets(), noisy[split].targets())


def test_the_quadrants_as_images() -> None:
    vectors, images = (open_dataset("digits", {"image_size": size}, 0) for size in (None, 32))
    assert {(m.kind, m.shape) for m in images.modalities} == {("image", (1, 32, 32))}
    enlarged = images.splits["val"].inputs["top_right"]
    coarse = enlarged.reshape(-1, 4, 8, 4, 8).mean((2, 4)).reshape(-1, 16)  # of a bilinear enlargement: near the pixels
    assert np.corrcoef(coarse.ravel(), vectors.splits["val"].inputs["top_right"].ravel())[0, 1] > 0.98
