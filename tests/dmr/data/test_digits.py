from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
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
