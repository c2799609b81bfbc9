"""One geometry for all images of a sample, against pixels that know where they come from."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dmr.data.augmentation import Augmentation, AugmentSettings, augmented_modalities, centre_crop
from dmr.data.dataset import Modality, MultimodalDataset, Split
from dmr.training import RunSettings, fit

CPU = torch.device("cpu")
B, H, W = 64, 9, 12
IGNORED = 255
EVERYTHING = AugmentSettings([6, 8], True, 20.0, [1.0, 1.4], 0.4)


def where() -> Tensor:
    """(H, W) a number of its own for every pixel."""
    return torch.arange(H * W, dtype=torch.float32).view(H, W)


def dataset(task: str = "segmentation", rgb: Any = np.float32) -> MultimodalDataset:
    """Colour, depth, frames and a spectrogram of which every pixel holds its own position; so do the label maps."""
    pixels = where().numpy()
    images = {"rgb": (3, H, W), "depth": (1, H, W), "film": (2, 3, H, W)}
    inputs = {
        name: np.broadcast_to(pixels, (B, *shape)).astype(rgb if name == "rgb" else np.float32)
        for name, shape in images.items()
    }
    kinds = [Modality(name, "frames" if name == "film" else "image", shape) for name, shape in images.items()]
    labels = np.broadcast_to(pixels, (B, H, W)).astype(np.int64)
    if task == "classification":
        inputs["sound"] = np.broadcast_to(pixels[None], (B, 1, H, W)).astype(np.float32)
        kinds.append(Modality("sound", "spectrogram", (1, H, W)))
        labels = np.arange(B) % 2
    split = Split(inputs, labels)
    names = tuple(map(str, range(H * W if task == "segmentation" else 2)))
    ignore_index = IGNORED if task == "segmentation" else None
    return MultimodalDataset("pixels", task, names, tuple(kinds), {"train": split, "val": split}, {}, ignore_index)  # type: ignore[arg-type]


def augmented(data: MultimodalDataset, settings: AugmentSettings, seed: int = 0) -> tuple[dict[str, Tensor], Tensor]:
    inputs, labels = data.splits["train"].gather(np.arange(B))
    return Augmentation(data, settings)(inputs, labels, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("settings", [AugmentSettings(), AugmentSettings(modalities=["rgb"])])
def test_off_by_default(settings: AugmentSettings) -> None:
    inputs, labels = dataset().splits["train"].gather(np.arange(B))
    got, same = Augmentation(dataset(), settings)(inputs, labels, torch.Generator())
    assert got is inputs
    assert same is labels


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.uint8])
def test_a_crop_is_a_window_of_every_image_and_of_the_label_map(dtype: Any) -> None:
    inputs, labels = augmented(dataset(rgb=dtype), AugmentSettings([6, 8], flip=True))
    assert inputs["rgb"].dtype == torch.from_numpy(np.zeros(1, dtype)).dtype
    assert {name: tuple(x.shape[1:]) for name, x in inputs.items()} == {
        "rgb": (3, 6, 8),
        "depth": (1, 6, 8),
        "film": (2, 3, 6, 8),
    }
    corners, mirrored = set(), 0
    for b in range(B):
        for images in inputs.values():
            assert all(torch.equal(image.long(), labels[b]) for image in images[b].reshape(-1, 6, 8))
        flip = bool(labels[b, 0, 0] > labels[b, 0, 1])
        mirrored += flip
        top, left = divmod(int((labels[b].flip(-1) if flip else labels[b])[0, 0]), W)
        window = where()[top : top + 6, left : left + 8].long()
        assert torch.equal(labels[b], window.flip(-1) if flip else window)
        corners.add((top, left))
    assert {top for top, _ in corners} == set(range(H - 6 + 1))
    assert {left for _, left in corners} == set(range(W - 8 + 1))
    assert 20 <= mirrored <= 44  # half of 64, 3 standard deviations


def test_a_flip_alone_keeps_the_size() -> None:
    inputs, labels = augmented(dataset(), AugmentSettings(flip=True))
    kinds = [torch.equal(labels[b], where().long()) for b in range(B)]
    assert 20 <= sum(kinds) <= 44
    for b, straight in enumerate(kinds):
        assert torch.equal(inputs["rgb"][b, 0], where() if straight else where().flip(-1))


def test_turned_images_and_label_maps_show_the_same_place() -> None:
    """Positions are linear in the pixel, so bilinear sampling gives the place itself, and the label is the nearest."""
    data = dataset()
    rows, columns = torch.meshgrid(torch.arange(H), torch.arange(W), indexing="ij")
    split = data.splits["train"]
    inputs = {
        "rgb": torch.stack([rows, columns, rows]).float().expand(B, 3, H, W),
        "depth": columns.float().expand(B, 1, H, W),
        "film": rows.float().expand(B, 2, 3, H, W),
    }
    augmentation = Augmentation(data, AugmentSettings([6, 8], True, 30.0, [1.0, 1.4]))
    got, labels = augmentation(inputs, torch.from_numpy(split.labels), torch.Generator().manual_seed(1))
    row, column = got["rgb"][:, 0], got["rgb"][:, 1]
    torch.testing.assert_close(got["depth"][:, 0], column)
    torch.testing.assert_close(got["film"][:, 1, 2], row)
    known = labels != IGNORED
    assert 0.9 < known.float().mean() < 1.0
    label_row, label_column = labels // W, labels % W
    assert (label_row - row)[known].abs().max() < 0.5 + 1e-3
    assert (label_column - column)[known].abs().max() < 0.5 + 1e-3
    across = torch.stack([row[:, 3, 4] - row[:, 3, 3], column[:, 3, 4] - column[:, 3, 3]])  # one pixel to the right
    angle = torch.atan2(across[0] * across[1].sign(), across[1].abs()).rad2deg()
    factor = 1.0 / across.square().sum(0).sqrt()
    assert 25.0 < angle.abs().max() < 30.0 + 1e-2
    assert 1.0 - 1e-3 < factor.min() < 1.1
    assert 1.3 < factor.max() < 1.4 + 1e-3
    assert 20 <= int((across[1] < 0).sum()) <= 44


def test_a_turn_by_nothing_is_a_window() -> None:
    data = dataset()
    inputs, labels = augmented(data, AugmentSettings([6, 8], True, 0.0, [1.0, 1.0]))
    flip = labels[:, 0, 0] > labels[:, 0, 1]
    straight = torch.where(flip[:, None, None], labels.flip(-1), labels)
    torch.testing.assert_close(straight - straight[:, :1, :1], (where()[:6, :8].long()).expand(B, 6, 8))
    assert (inputs["depth"][:, 0] - labels).abs().max() <= 0.5 * (W + 1) + 1e-3  # half a pixel down and right


def test_without_an_ignored_label_the_border_is_repeated() -> None:
    data = replace(dataset(), ignore_index=None)
    _, labels = augmented(data, AugmentSettings(rotate_degrees=180.0))
    assert labels.min() >= 0
    assert labels.max() < H * W


def test_spectrograms_are_never_touched_and_labels_stay() -> None:
    data = dataset("classification")
    inputs, labels = augmented(data, EVERYTHING)
    assert torch.equal(inputs["sound"], torch.from_numpy(data.splits["train"].inputs["sound"]))
    assert torch.equal(labels, torch.from_numpy(data.splits["train"].labels))
    assert inputs["rgb"].shape == (B, 3, 6, 8)


def test_colour_jitter_by_its_formula() -> None:
    data = dataset("classification", np.uint8)
    images = np.random.default_rng(0).integers(0, 256, (B, 3, H, W)).astype(np.uint8)
    inputs = {name: torch.from_numpy(x) for name, x in (dict(data.splits["train"].inputs) | {"rgb": images}).items()}
    labels = torch.from_numpy(data.splits["train"].labels)
    augmentation = Augmentation(data, AugmentSettings(colour_jitter=0.5))
    got, _ = augmentation(inputs, labels, torch.Generator().manual_seed(0))
    draws = torch.Generator().manual_seed(0)
    torch.rand(B, generator=draws)  # mirrored or not
    torch.rand((2, B), generator=draws, dtype=torch.float64)  # where the window is
    factors = (0.5 + torch.rand((3, B), generator=draws)).double().numpy()
    luma = np.array([0.299, 0.587, 0.114])[:, None, None]
    for b in range(B):
        x = np.clip(images[b] * factors[0, b], 0, 255)
        mean = (luma * x).sum(0).mean()
        x = np.clip(mean + factors[1, b] * (x - mean), 0, 255)
        grey = (luma * x).sum(0)
        np.testing.assert_allclose(got["rgb"][b], np.clip(grey + factors[2, b] * (x - grey), 0, 255), atol=1e-3)
    assert torch.equal(got["depth"], inputs["depth"])
    assert not torch.equal(got["film"][0], inputs["film"][0])


def test_modalities_by_name() -> None:
    data = dataset("classification")
    inputs, _ = augmented(data, replace(EVERYTHING, modalities=["depth", "rgb"]))
    assert torch.equal(inputs["film"], torch.from_numpy(data.splits["train"].inputs["film"]))
    assert inputs["depth"].shape == (B, 1, 6, 8)


def test_the_same_draws_give_the_same_batch(under_two_global_seeds: Callable[..., Any]) -> None:
    one, other = under_two_global_seeds(lambda: augmented(dataset(), EVERYTHING, 3))
    assert all(torch.equal(one[0][name], other[0][name]) for name in one[0])
    assert torch.equal(one[1], other[1])
    different = augmented(dataset(), EVERYTHING, 4)
    assert not torch.equal(one[1], different[1])


def test_evaluation_sees_the_centre_without_a_copy() -> None:
    data = dataset()
    seen = centre_crop(data, AugmentSettings([6, 7]))
    assert [m.shape for m in seen.modalities] == [(3, 6, 7), (1, 6, 7), (2, 3, 6, 7)]
    split = seen.splits["val"]
    window = where()[1:7, 2:9].numpy()
    np.testing.assert_array_equal(split.labels[5], window)
    np.testing.assert_array_equal(split.gather(np.array([4]))[0]["film"][0, 1, 2], window)
    assert all(np.shares_memory(split.inputs[name], data.splits["val"].inputs[name]) for name in split.inputs)
    assert centre_crop(data, AugmentSettings(flip=True)) is data


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (AugmentSettings([10, 8]), r"crop: got \[10, 8\]; allowed: \[height, width\], at most \[9, 12\]"),
        (AugmentSettings([6]), r"crop: got \[6\]; allowed"),
        (AugmentSettings([0, 6]), r"crop: got \[0, 6\]; allowed"),
        (AugmentSettings(scale=[1.4, 1.0]), r"scale: got \[1.4, 1.0\]; allowed: \[least, most\], above 0"),
        (AugmentSettings(scale=[0.0, 1.0]), r"scale: got \[0.0, 1.0\]"),
        (
            AugmentSettings(flip=True, modalities=["sound"]),
            "modalities: got 'sound'; images and frames .* are rgb, dep",
        ),
        (AugmentSettings(flip=True, modalities=[]), "modalities: the data set has no images"),
        (AugmentSettings(colour_jitter=0.1, modalities=["depth"]), "colour_jitter: none of depth has 3 channels"),
    ],
)
def test_settings_that_do_not_fit(settings: AugmentSettings, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        augmented_modalities(dataset("classification"), settings)


def test_label_maps_need_all_images() -> None:
    with pytest.raises(ValueError, match=r"^modalities: label maps change with the images, so all modalities have to"):
        augmented_modalities(dataset(), AugmentSettings(flip=True, modalities=["rgb"]))
    assert augmented_modalities(dataset(), AugmentSettings(colour_jitter=0.5, modalities=["rgb"]))[0].name == "rgb"


def test_images_of_two_sizes_have_no_common_geometry(make_dataset: Callable[..., MultimodalDataset]) -> None:
    data = make_dataset(2, kind="image", shape=(1, 8, 8))
    data = replace(data, modalities=(data.modalities[0], Modality("b", "image", (1, 4, 4))))
    with pytest.raises(ValueError, match=r"^modalities: a has 8×8 pixels, b has 4×4; name those of one size"):
        augmented_modalities(data, AugmentSettings(flip=True))


@pytest.mark.parametrize("task", ["classification", "segmentation"])
def test_a_run_with_augmentation_goes_on_bit_for_bit(
    task: str,
    make_dataset: Callable[..., MultimodalDataset],
    make_maps: Callable[..., MultimodalDataset],
    make_settings: Callable[..., RunSettings],
    memory_reporter: Any,
    assert_identical: Callable[..., None],
) -> None:
    data = make_maps() if task == "segmentation" else make_dataset(2, kind="image", shape=(3, 16, 16))
    augment = AugmentSettings([12, 12], True, 15.0, [1.0, 1.3])
    settings = replace(make_settings(data, epochs=3), augment=augment)
    whole, plain = memory_reporter(), memory_reporter()
    report = fit(data, settings, CPU, whole)
    again = memory_reporter(whole.states[0])
    assert fit(data, settings, CPU, again) == report
    assert_identical(again.states[-1], whole.states[-1])
    fit(data, replace(settings, augment=AugmentSettings([12, 12])), CPU, plain)
    assert plain.states[-1]["report"]["metrics"] != whole.states[-1]["report"]["metrics"]
    assert math.isfinite(report.metrics["train/loss"])
