from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dmr.losses import TaskLoss, class_weights, masked_mean
from dmr.settings import ClassWeights

LEADING = [(), (4,), (2, 3)]


def reference(logits: Tensor, label: int, weights: Tensor | None = None) -> float:
    """Cross-entropy of one prediction (L,), from its definition."""
    probability = torch.exp(logits.double())
    loss = -torch.log(probability[label] / probability.sum())
    return float(loss) * (1.0 if weights is None else float(weights[label]))


def test_by_hand() -> None:
    # p = 1/2, 1/4, 1/4
    logits = torch.log(torch.tensor([[2.0, 1.0, 1.0], [2.0, 1.0, 1.0]]))
    got = TaskLoss()(logits, torch.tensor([0, 2]))
    torch.testing.assert_close(got, torch.log(torch.tensor([2.0, 4.0])))
    weighted = TaskLoss(torch.tensor([3.0, 1.0, 0.5]))(logits, torch.tensor([0, 2]))
    torch.testing.assert_close(weighted, torch.log(torch.tensor([2.0, 4.0])) * torch.tensor([3.0, 0.5]))


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("leading", LEADING)
def test_classification_is_a_loss_a_sample(leading: tuple[int, ...], weighted: bool) -> None:
    logits, labels = torch.randn(*leading, 5, 4), torch.tensor([0, 3, 1, 1, 2])
    weights = torch.tensor([0.5, 2.0, 1.0, 0.0]) if weighted else None
    got = TaskLoss(weights)(logits, labels)
    assert got.shape == (*leading, 5)
    for where in np.ndindex(*got.shape):
        assert got[where].item() == pytest.approx(reference(logits[where], int(labels[where[-1]]), weights), rel=1e-5)
        alone = F.cross_entropy(logits[where][None], labels[where[-1]][None], weights, reduction="sum")
        torch.testing.assert_close(got[where], alone)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("ignore_index", [None, 0, 255])
@pytest.mark.parametrize("leading", LEADING)
def test_segmentation_is_the_mean_over_the_pixels_that_count(
    leading: tuple[int, ...], ignore_index: int | None, weighted: bool
) -> None:
    logits, labels = torch.randn(*leading, 3, 2, 5, 4), torch.randint(0, 4, (3, 2, 5))
    weights = torch.tensor([0.5, 2.0, 1.0, 3.0]) if weighted else None
    if ignore_index is not None:
        labels[0, 0, :3] = ignore_index
        labels[1] = ignore_index
    got = TaskLoss(weights, ignore_index)(logits, labels)
    assert got.shape == (*leading, 3)
    for where in np.ndindex(*got.shape):
        counted = [
            reference(logits[where][pixel], int(label), weights)
            for pixel, label in np.ndenumerate(labels[where[-1]].numpy())
            if label != ignore_index
        ]
        assert got[where].item() == pytest.approx(np.mean(counted) if counted else 0.0, rel=1e-5)


def test_ignored_pixels_have_neither_a_loss_nor_a_gradient() -> None:
    logits, labels = torch.randn(1, 2, 3, 4), torch.tensor([[[1, 9, 2], [9, 0, 0]]])
    loss, ignored = TaskLoss(None, 9), labels[0] == 9
    before = loss(logits, labels)
    spoiled = logits.clone()
    spoiled[0, ignored] = torch.randn(int(ignored.sum()), 4)
    assert torch.equal(loss(spoiled, labels), before)
    spoiled.requires_grad_(True)
    loss(spoiled, labels).sum().backward()
    assert spoiled.grad is not None
    assert spoiled.grad[0, ignored].abs().max() == 0
    assert (spoiled.grad[0, ~ignored].abs().sum(-1) > 0).all()


def test_a_map_of_ignored_pixels_is_zero_and_not_nan() -> None:
    logits = torch.randn(1, 2, 2, 3, requires_grad=True)
    loss = TaskLoss(None, 0)(logits, torch.zeros((1, 2, 2), dtype=torch.int64))
    loss.sum().backward()
    assert loss.tolist() == [0.0]
    assert logits.grad is not None
    assert logits.grad.abs().max() == 0


def test_half_precision_logits_are_judged_in_float32() -> None:
    logits, labels = torch.randn(6, 3).bfloat16(), torch.arange(6) % 3
    assert torch.equal(TaskLoss()(logits, labels), TaskLoss()(logits.float(), labels))


@pytest.mark.parametrize(("logits", "labels"), [((4, 3), (5,)), ((2, 4, 3), (2,)), ((4, 6, 6, 3), (4, 6, 5))])
def test_shapes_that_do_not_agree_are_refused(logits: tuple[int, ...], labels: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"logits \(.*\) do not fit labels \("):
        TaskLoss()(torch.zeros(logits), torch.zeros(labels, dtype=torch.int64))


def test_masked_mean_is_over_what_is_there() -> None:
    values = torch.tensor([1.0, float("nan"), 4.0])
    assert masked_mean(values, torch.tensor([True, False, True])).item() == 2.5
    assert masked_mean(values, torch.tensor([False, False, False])).item() == 0.0


# --- weights of the classes -------------------------------------------------------------------------------------------

IMAGES = np.array([[[0, 0], [0, 1]], [[0, 1], [1, 1]], [[2, 2], [9, 9]]])  # 9 does not count; class 3 never occurs


def test_inverse_by_hand() -> None:
    # f = 4/10, 4/10, 2/10; weights ∝ 2.5, 2.5, 5, whose mean over the labels is 3
    got = class_weights(IMAGES, 4, "inverse", 9)
    torch.testing.assert_close(got, torch.tensor([2.5, 2.5, 5.0, 0.0]) / 3)


def test_median_by_hand() -> None:
    # class 0: 4 of the 8 pixels of images 0 and 1; class 1: the same; class 2: 2 of the 2 that count in image 2
    # weights ∝ 2, 2, 1, whose mean over the labels is (4·2 + 4·2 + 2·1)/10 = 1.8
    got = class_weights(IMAGES, 4, "median", 9)
    torch.testing.assert_close(got, torch.tensor([2.0, 2.0, 1.0, 0.0]) / 1.8)


def test_none_has_no_weights() -> None:
    assert class_weights(IMAGES, 4, "none", 9) is None


def median_frequency(labels: npt.NDArray[np.int64], num_classes: int, ignored: int) -> npt.NDArray[np.float64]:
    """median(f)/f as in Eigen and Fergus, of the classes that are not ignored, from loops over pixels."""
    own, around = np.zeros(num_classes), np.zeros(num_classes)
    for image in labels:
        pixels = [label for label in image.flatten().tolist() if label != ignored]
        for label in pixels:
            own[label] += 1
        for label in set(pixels):
            around[label] += len(pixels)
    kept = [label for label in range(num_classes) if label != ignored]
    frequency = own[kept] / around[kept]
    return np.asarray(np.median(frequency) / frequency)


@pytest.mark.parametrize("ignored", [0, 4])
def test_median_is_median_frequency_balancing_up_to_a_factor(ignored: int) -> None:
    labels = np.random.default_rng(0).choice(5, (6, 7, 3), p=[0.3, 0.4, 0.15, 0.1, 0.05])
    labels[:3][labels[:3] == 3] = 1  # a class that is not in every image
    kept = [label for label in range(5) if label != ignored]
    got = class_weights(labels, 5, "median", ignored)
    assert got is not None
    ratio = got.numpy()[kept] / median_frequency(labels, 5, ignored)
    assert ratio[0] > 0
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-6)


@pytest.mark.parametrize("kind", ["inverse", "median"])
@pytest.mark.parametrize("ignored", [None, 2])
def test_the_mean_over_the_labels_is_one(kind: ClassWeights, ignored: int | None) -> None:
    labels = np.random.default_rng(1).choice(4, (5, 6, 6), p=[0.5, 0.3, 0.15, 0.05])
    got = class_weights(labels, 4, kind, ignored)
    assert got is not None
    counted = labels if ignored is None else labels[labels != ignored]
    assert got.numpy()[counted].mean() == pytest.approx(1.0)
    assert got.dtype == torch.float32


def test_every_class_weighs_the_same_in_the_inverse_weighted_sum() -> None:
    labels = np.array([0] * 6 + [1] * 3 + [2])
    got = class_weights(labels, 3, "inverse")
    assert got is not None
    sums = [float(got[label]) * int((labels == label).sum()) for label in range(3)]
    assert sums == pytest.approx([10 / 3] * 3)


def test_median_of_single_labels_is_inverse() -> None:
    """All labels together are one image: with an image per label each frequency, and so each weight, would be 1."""
    labels = np.array([0] * 6 + [1] * 3 + [2])
    median, inverse = class_weights(labels, 4, "median"), class_weights(labels, 4, "inverse")
    assert median is not None
    assert inverse is not None
    torch.testing.assert_close(median, inverse)
    torch.testing.assert_close(median, torch.tensor([10 / 18, 10 / 9, 10 / 3, 0.0]))
