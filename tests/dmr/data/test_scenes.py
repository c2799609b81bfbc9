from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy.ndimage import find_objects, label
from scipy.stats import ks_2samp

from dmr.data.dataset import DataError, Modality, MultimodalDataset, input_statistics
from dmr.data.scenes import CLASS_NAMES, IGNORE_INDEX, ScenesSettings, scenes

WALL, POSTER, BOX, CUSHION, BALL = range(5)
UNLIKELY = 1e-4  # p of a difference that is there by chance


@pytest.fixture(scope="module")
def dataset() -> MultimodalDataset:
    return scenes(ScenesSettings(train=1500))


@pytest.fixture(scope="module")
def things(dataset: MultimodalDataset) -> dict[int, np.ndarray]:
    """By class, for each of its things that touches nothing and no frame: height, width, mean red, green and blue, mean
    and largest height above the wall in metres, its place in the scene, and the share of its scene that is wall.
    """
    train = dataset.splits["train"]
    found: dict[int, list[list[float]]] = {kind: [] for kind in range(1, 5)}
    for labels, rgb, depth in zip(train.labels, train.inputs["rgb"], train.inputs["depth"][:, 0], strict=True):
        rows, columns = np.indices(labels.shape)
        wall = labels == WALL
        plane = np.column_stack([np.ones(wall.sum()), rows[wall], columns[wall]])
        fitted = np.linalg.lstsq(plane, depth[wall], rcond=None)[0]
        nearer = fitted[0] + fitted[1] * rows + fitted[2] * columns - depth
        parts, _ = label((labels != WALL) & (labels != IGNORE_INDEX))
        for number, box in enumerate(find_objects(parts), start=1):
            inside = parts[box] == number
            kinds = np.unique(labels[box][inside])
            top, left = box[0].start, box[1].start
            high, wide = inside.shape
            if len(kinds) > 1 or top <= 1 or left <= 1 or top + high >= 47 or left + wide >= 47 or max(high, wide) > 14:
                continue
            colour = rgb[:, box[0], box[1]][:, inside].mean(axis=1)
            rise = nearer[box][inside]
            found[int(kinds[0])].append([high, wide, *colour, rise.mean(), rise.max(), top, left, wall.mean()])
    return {kind: np.array(rows) for kind, rows in found.items()}


SIZE, COLOUR, DEPTH, PLACE = slice(0, 2), slice(2, 5), slice(5, 7), slice(7, 10)


@pytest.mark.parametrize(
    ("rare", "frequent", "alike", "unlike"),
    [(BOX, POSTER, (SIZE, PLACE, COLOUR), DEPTH), (BALL, CUSHION, (SIZE, PLACE, DEPTH), COLOUR)],
)
def test_a_pair_differs_in_one_modality_only(
    things: dict[int, np.ndarray], rare: int, frequent: int, alike: tuple[slice, ...], unlike: slice
) -> None:
    assert len(things[rare]) > 300
    for columns in alike:
        for one, other in zip(things[rare][:, columns].T, things[frequent][:, columns].T, strict=True):
            assert ks_2samp(one, other).pvalue > UNLIKELY
    tested = zip(things[rare][:, unlike].T, things[frequent][:, unlike].T, strict=True)
    assert max(ks_2samp(one, other).statistic for one, other in tested) > 0.95


def test_depth_separates_what_it_is_to_separate(things: dict[int, np.ndarray]) -> None:
    heights = {kind: rows[:, 5] for kind, rows in things.items()}
    assert np.abs(heights[POSTER]).max() < 0.2
    assert np.quantile(heights[BOX], 0.01) > np.quantile(heights[CUSHION], 0.99)


@pytest.mark.parametrize(("rare", "frequent"), [(BOX, POSTER), (BALL, CUSHION)])
def test_the_rare_one_of_a_pair_is_four_times_as_rare(dataset: MultimodalDataset, rare: int, frequent: int) -> None:
    for split in dataset.splits.values():
        counts = np.bincount(split.labels.ravel(), minlength=256)
        assert counts[rare] > 0
        assert counts[frequent] > 4 * counts[rare] * (1.0 if len(split) > 1000 else 0.7)


def test_pixels_of_a_pair_have_one_colour_or_one_depth(dataset: MultimodalDataset) -> None:
    """Pixel by pixel too: nothing such as a noise of its own gives a class away."""
    train = dataset.splits["train"]
    pixels = {kind: train.labels == kind for kind in range(5)}
    colours = {kind: train.inputs["rgb"].transpose(0, 2, 3, 1)[inside] for kind, inside in pixels.items()}
    depths = {kind: train.inputs["depth"][:, 0][inside] for kind, inside in pixels.items()}
    np.testing.assert_allclose(colours[BOX].mean(0), colours[POSTER].mean(0), atol=0.01)
    np.testing.assert_allclose(colours[BOX].std(0), colours[POSTER].std(0), rtol=0.05)
    np.testing.assert_allclose(depths[BALL].mean(), depths[CUSHION].mean(), atol=0.04)
    np.testing.assert_allclose(depths[BALL].std(), depths[CUSHION].std(), rtol=0.1)


def test_shapes_types_and_ranges(dataset: MultimodalDataset) -> None:
    assert (dataset.task, dataset.class_names, dataset.ignore_index) == ("segmentation", CLASS_NAMES, 255)
    assert dataset.modalities == (Modality("rgb", "image", (3, 48, 48)), Modality("depth", "image", (1, 48, 48)))
    assert dataset.description == {"only_depth": "box", "only_colour": "ball"}
    assert {name: len(split) for name, split in dataset.splits.items()} == {"train": 1500, "val": 100, "test": 200}
    for split in dataset.splits.values():
        rgb, depth = split.inputs["rgb"], split.inputs["depth"]
        assert (rgb.shape, depth.shape) == ((len(split), 3, 48, 48), (len(split), 1, 48, 48))
        assert rgb.dtype == depth.dtype == np.float32
        assert (split.labels.shape, split.labels.dtype) == ((len(split), 48, 48), np.int64)
        assert ((rgb >= 0) & (rgb <= 1)).mean() > 0.99
        assert 1.0 < depth.min() < depth.max() < 5.0
        assert set(np.unique(split.labels)) == {*range(5), IGNORE_INDEX}
    assert input_statistics(dataset)["rgb"].mean.shape == (3, 1, 1)


@pytest.mark.parametrize("size", [24, 48, 65])
def test_the_border_and_nothing_else_has_no_label(size: int) -> None:
    labels = scenes(ScenesSettings(size=size, train=5, val=2, test=2)).splits["train"].labels
    void = labels == IGNORE_INDEX
    assert labels.shape == (5, size, size)
    assert not void[:, 1:-1, 1:-1].any()
    assert void.sum() == 5 * (4 * size - 4)


def test_only_the_seed_decides(under_two_global_seeds: Callable[[Callable[[], Any]], tuple[Any, Any]]) -> None:
    one, same = under_two_global_seeds(lambda: scenes(ScenesSettings(train=6, val=4, test=4)))
    longer = scenes(ScenesSettings(train=9, val=4, test=4))
    other = scenes(ScenesSettings(train=6, val=4, test=4, seed=1))
    for split in ("train", "val", "test"):
        for name in ("rgb", "depth"):
            np.testing.assert_array_equal(one.splits[split].inputs[name], same.splits[split].inputs[name])
        np.testing.assert_array_equal(one.splits[split].labels, same.splits[split].labels)
        assert not np.array_equal(one.splits[split].labels, other.splits[split].labels)
    np.testing.assert_array_equal(one.splits["test"].inputs["rgb"], longer.splits["test"].inputs["rgb"])


def test_the_splits_share_no_scene() -> None:
    splits = scenes(ScenesSettings(train=50, val=50, test=50)).splits
    rows = np.concatenate([split.labels.reshape(50, -1) for split in splits.values()])
    assert len(np.unique(rows, axis=0)) == 150


def test_what_is_ignored_is_no_class() -> None:
    modalities = (Modality("rgb", "image", (3, 4, 4)), Modality("depth", "image", (1, 4, 4)))
    with pytest.raises(DataError, match=r"rooms: ignore_index: got 1, the label of a class; allowed .* 0 to 1"):
        MultimodalDataset("rooms", "segmentation", ("0", "1"), modalities, {}, ignore_index=1)
