from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, f1_score, log_loss
from torch import Tensor

from dmr.combinations import all_combinations
from dmr.metrics import (
    ECE_BINS,
    MAIN_METRICS,
    METRICS,
    ClassificationTally,
    SegmentationTally,
    make_tally,
    metrics_of,
    score,
    summarise,
)


def random_logits(combinations: int, samples: int, classes: int, seed: int) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    logits = 2.0 * torch.randn((combinations, samples, classes), generator=draw)
    labels = torch.randint(0, classes, (samples,), generator=draw)
    return logits, labels


def calibration_error(probabilities: npt.NDArray[np.float64], labels: npt.NDArray[np.int64]) -> float:
    """Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, equation 3, with equal bins."""
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    bins = np.minimum((confidence * ECE_BINS).astype(int), ECE_BINS - 1)
    return sum(
        (bins == b).mean() * abs(right[bins == b].mean() - confidence[bins == b].mean())
        for b in range(ECE_BINS)
        if (bins == b).any()
    )


@pytest.mark.parametrize(("samples", "classes"), [(200, 2), (200, 5), (7, 10), (1, 3)])
def test_against_sklearn(samples: int, classes: int) -> None:
    logits, labels = random_logits(3, samples, classes, seed=classes)
    got = score(logits, labels)
    assert set(got) == set(metrics_of("classification", classes))
    for c in range(3):
        predicted = logits[c].argmax(-1).numpy()
        probabilities = logits[c].double().softmax(-1).numpy()
        assert got["accuracy"][c] == pytest.approx(accuracy_score(labels, predicted), abs=1e-6)
        assert got["macro_f1"][c] == pytest.approx(f1_score(labels, predicted, average="macro"), abs=1e-6)
        assert got["nll"][c] == pytest.approx(log_loss(labels, probabilities, labels=range(classes)), abs=1e-5)
        assert got["ece"][c] == pytest.approx(calibration_error(probabilities, labels.numpy()), abs=1e-5)


@pytest.mark.parametrize(("samples", "classes"), [(1, 3), (300, 2), (300, 12)])
@pytest.mark.parametrize("scale", [1.0, 30.0], ids=["unsure", "sure"])
def test_against_torchmetrics(samples: int, classes: int, scale: float) -> None:
    """Sure predictions have confidences of exactly 1."""
    from torchmetrics.functional import classification

    logits, labels = random_logits(4, samples, classes, seed=samples)
    logits *= scale
    got, doubled = score(logits, labels), score(logits.double(), labels)
    for name, values in got.items():
        np.testing.assert_allclose(doubled[name], values, atol=1e-5, err_msg=name)
    for c in range(4):
        predicted, probabilities = logits[c].argmax(-1), logits[c].softmax(-1)
        accuracy = classification.multiclass_accuracy(predicted, labels, classes, average="micro")
        macro_f1 = classification.multiclass_f1_score(predicted, labels, classes, average="macro")
        ece = classification.multiclass_calibration_error(probabilities, labels, classes, n_bins=ECE_BINS, norm="l1")
        assert got["accuracy"][c] == accuracy.item()
        assert got["macro_f1"][c] == pytest.approx(macro_f1.item(), abs=1e-6)
        assert got["ece"][c] == pytest.approx(ece.item(), abs=1e-6)


@pytest.mark.parametrize("classes", [2, 7])
@pytest.mark.parametrize("scale", [1.0, 30.0], ids=["unsure", "sure"])
def test_each_combination_on_the_samples_that_have_it_against_torchmetrics(classes: int, scale: float) -> None:
    """In batches; the third combination has no sample, and the labels of the second lack a class."""
    from torchmetrics.functional import classification

    logits, labels = random_logits(3, 250, classes, seed=classes)
    logits *= scale
    available = torch.rand((3, 250), generator=torch.Generator().manual_seed(0)) < 0.6
    available[1] &= labels != 1
    available[2] = False
    tally = ClassificationTally(classes)
    for x, y, there in zip(logits.split(64, dim=1), labels.split(64), available.split(64, dim=1), strict=True):
        tally.add(x, y, there)
    got, scores = tally.values(), tally.scores()
    assert set(got) == set(metrics_of("classification", classes))
    assert all(np.isnan(values[2]) for values in got.values())
    np.testing.assert_array_equal(np.isnan(scores), ~available.numpy())
    for c in range(2):
        x, y = logits[c, available[c]], labels[available[c]]
        predicted, probabilities = x.argmax(-1), x.softmax(-1)
        ece = classification.multiclass_calibration_error(probabilities, y, classes, n_bins=ECE_BINS, norm="l1")
        expected = {
            "accuracy": classification.multiclass_accuracy(predicted, y, classes, average="micro"),
            "macro_f1": classification.multiclass_f1_score(predicted, y, classes, average="macro"),
            "ece": ece,
            "nll": torch.nn.functional.cross_entropy(x.double(), y),
        }
        if classes == 2:
            right, accepted, rejected, wrong, _ = classification.binary_stat_scores(predicted, y)
            expected["apcer"] = accepted / (accepted + rejected).clamp(min=1)
            expected["bpcer"] = wrong / (wrong + right).clamp(min=1)
            expected["acer"] = (expected["apcer"] + expected["bpcer"]) / 2
        assert set(expected) == set(got)
        for name, value in expected.items():
            assert got[name][c] == pytest.approx(value.item(), abs=1e-6, rel=1e-6), name
        assert np.nanmean(scores[c]) == pytest.approx(got["accuracy"][c], abs=1e-6)


def test_some_metrics_are_computed_alone() -> None:
    logits, labels = random_logits(2, 30, 3, seed=0)
    tally = ClassificationTally(3)
    tally.add(logits, labels)
    everything, some = tally.values(), tally.values({"ece", "accuracy", "miou"})
    assert list(some) == ["accuracy", "ece"]
    for name, values in some.items():
        np.testing.assert_array_equal(values, everything[name])


@pytest.mark.parametrize("ignore_index", [None, 255])
def test_label_maps_that_lack_modalities_count_nowhere(ignore_index: int | None) -> None:
    logits, labels = random_maps(2, 6, ignore_index, seed=7)
    available = torch.tensor([[True, False, True, True, False, True], [False] * 6])
    tally, alone = SegmentationTally(NAMES, ignore_index), SegmentationTally(NAMES, ignore_index)
    tally.add(logits, labels, available)
    alone.add(logits[:1, available[0]], labels[available[0]])
    for name, values in alone.values().items():
        assert tally.values()[name][0] == values[0]
        assert np.isnan(tally.values()[name][1])
    np.testing.assert_array_equal(tally.scores()[0, available[0]], alone.scores()[0])


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10_000), st.integers(1, 40), st.integers(2, 6))
def test_a_combination_is_scored_on_its_own(seed: int, samples: int, classes: int) -> None:
    logits, labels = random_logits(3, samples, classes, seed)
    together = score(logits, labels)
    for name, value in together.items():
        alone = [score(logits[c : c + 1], labels)[name][0] for c in range(3)]
        np.testing.assert_allclose(value, alone, rtol=1e-6, atol=1e-7, err_msg=name)


def test_certain_and_right_and_certain_and_wrong() -> None:
    labels = torch.tensor([0, 1, 2, 1])
    right = 100.0 * torch.nn.functional.one_hot(labels, 3).float()
    got = score(torch.stack([right, right.roll(1, dims=-1)]), labels)
    np.testing.assert_allclose(got["accuracy"], [1, 0])
    np.testing.assert_allclose(got["macro_f1"], [1, 0])
    np.testing.assert_allclose(got["nll"], [0, 100], atol=1e-4)
    np.testing.assert_allclose(got["ece"], [0, 1], atol=1e-6)


def test_shapes_that_do_not_agree() -> None:
    with pytest.raises(ValueError, match=r"logits \(2, 5, 3\) are not \(C, N, L\) for labels \(4,\)"):
        score(torch.zeros(2, 5, 3), torch.zeros(4, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"logits \(5, 3\) are not"):
        score(torch.zeros(5, 3), torch.zeros(5, dtype=torch.int64))


def test_summaries_by_hand() -> None:
    combinations = all_combinations(["a", "b"])
    values = {"accuracy": np.array([0.5, 0.2, 0.8]), "nll": np.array([0.7, 1.5, 0.2])}
    assert summarise(values, combinations) == pytest.approx(
        {
            "accuracy_mean": 0.5,
            "accuracy_worst": 0.2,
            "accuracy_full": 0.8,
            "nll_mean": 0.8,
            "nll_worst": 1.5,
            "nll_full": 0.2,
        }
    )
    expected = summarise(values, combinations, np.array([0.25, 0.25, 0.5]))
    assert expected["accuracy_expected"] == pytest.approx(0.575)
    assert expected["nll_expected"] == pytest.approx(0.65)


def test_what_is_no_metric_is_not_summarised() -> None:
    combinations = all_combinations(["a", "b"])
    values = {"miou": np.array([0.2, 0.3, 0.4]), "iou_wall": np.array([0.1, np.nan, 0.5])}
    got = summarise(values, combinations, np.array([0.5, 0.5, 0.0]))
    assert got == pytest.approx({"miou_mean": 0.3, "miou_worst": 0.2, "miou_full": 0.4, "miou_expected": 0.25})


def test_every_metric_declares_which_way_is_better() -> None:
    assert {name: metric.direction for name, metric in METRICS.items()} == {
        "accuracy": "max",
        "macro_f1": "max",
        "nll": "min",
        "ece": "min",
        "acer": "min",
        "apcer": "min",
        "bpcer": "min",
        "miou": "max",
        "pixel_accuracy": "max",
    }
    assert all(name == metric.name for name, metric in METRICS.items())
    for task, name in MAIN_METRICS.items():
        assert METRICS[name].task == task


def test_the_metrics_of_a_task() -> None:
    always = ["accuracy", "macro_f1", "nll", "ece"]
    assert list(metrics_of("classification", 3)) == always
    assert list(metrics_of("classification", 2)) == [*always, "acer", "apcer", "bpcer"]
    assert list(metrics_of("segmentation", 2)) == ["miou", "pixel_accuracy"]
    assert list(metrics_of("segmentation", 40)) == ["miou", "pixel_accuracy"]


# --- anti-spoofing: class 1 is genuine ------------------------------------------------------------------------------


def two_class_logits(
    genuine_right: int, genuine_wrong: int, attack_right: int, attack_wrong: int
) -> tuple[Tensor, Tensor]:
    counts = torch.tensor([genuine_right, genuine_wrong, attack_right, attack_wrong])
    labels = torch.tensor([1, 1, 0, 0]).repeat_interleave(counts)
    predicted = torch.tensor([1, 0, 0, 1]).repeat_interleave(counts)
    return torch.nn.functional.one_hot(predicted, 2).float()[None], labels


def test_the_error_rates_of_casia_surf() -> None:
    """The check in dmrnet.md: 15 817 live right, 1 641 live wrong, 37 164 spoof right, 3 088 spoof wrong: 8.54 %."""
    got = score(*two_class_logits(15_817, 1_641, 37_164, 3_088))
    assert got["apcer"][0] == pytest.approx(3_088 / 40_252)
    assert got["bpcer"][0] == pytest.approx(1_641 / 17_458)
    assert round(100 * got["acer"][0], 2) == 8.54
    assert got["acer"][0] == pytest.approx((got["apcer"][0] + got["bpcer"][0]) / 2)


@pytest.mark.parametrize(
    ("counts", "apcer", "bpcer"), [((3, 1, 0, 0), 0.0, 0.25), ((0, 0, 1, 3), 0.75, 0.0), ((2, 0, 2, 0), 0.0, 0.0)]
)
def test_a_class_without_samples_has_no_errors(counts: tuple[int, int, int, int], apcer: float, bpcer: float) -> None:
    got = score(*two_class_logits(*counts))
    assert (got["apcer"][0], got["bpcer"][0]) == (apcer, bpcer)
    assert got["acer"][0] == (apcer + bpcer) / 2


# --- label maps -----------------------------------------------------------------------------------------------------

NAMES = ("sky", "road", "tree", "sea")


def random_maps(
    combinations: int, images: int, ignore_index: int | None, seed: int, absent: int | None = None
) -> tuple[Tensor, Tensor]:
    """Logits (C, N, 5, 6, 4) and labels (N, 5, 6), a quarter of them ignored, none of class `absent`."""
    draw = torch.Generator().manual_seed(seed)
    logits = torch.randn((combinations, images, 5, 6, len(NAMES)), generator=draw)
    labels = torch.randint(0, len(NAMES), (images, 5, 6), generator=draw)
    if absent is not None:
        labels[labels == absent] = (absent + 1) % len(NAMES)
    if ignore_index is not None:
        labels[torch.rand(labels.shape, generator=draw) < 0.25] = ignore_index
    return logits, labels


def tally_of(logits: Tensor, labels: Tensor, ignore_index: int | None, size: int) -> SegmentationTally:
    tally = SegmentationTally(NAMES, ignore_index)
    for x, y in zip(logits.split(size, dim=1), labels.split(size), strict=True):
        tally.add(x, y)
    return tally


@pytest.mark.parametrize("ignore_index", [None, 255, -1, 0])
@pytest.mark.parametrize("absent", [None, 2])
def test_label_maps_against_loops(absent: int | None, ignore_index: int | None) -> None:
    logits, labels = random_maps(3, 7, ignore_index, seed=1, absent=absent)
    if absent is not None:  # predicted in the first combination only
        logits[1:, ..., absent] = -100.0
    got = tally_of(logits, labels, ignore_index, size=7)
    values, scores = got.values(), got.scores()
    assert set(values) == {"miou", "pixel_accuracy", *(f"iou_{name}" for name in NAMES)}
    assert scores.shape == (3, 7)
    for c in range(3):
        predicted = logits[c].argmax(-1)
        counted = [
            [
                (int(p), int(y))
                for p, y in zip(image.flatten(), target.flatten(), strict=True)
                if ignore_index is None or y != ignore_index
            ]
            for image, target in zip(predicted, labels, strict=True)
        ]
        pairs = [pair for image in counted for pair in image]
        assert values["pixel_accuracy"][c] == pytest.approx(sum(p == y for p, y in pairs) / len(pairs), rel=1e-6)
        for image, pixels in enumerate(counted):
            assert scores[c, image] == pytest.approx(sum(p == y for p, y in pixels) / len(pixels), rel=1e-6)
        of_labels = []
        for index, name in enumerate(NAMES):
            both = sum(p == index == y for p, y in pairs)
            either = sum(index in (p, y) for p, y in pairs)
            if either == 0:
                assert np.isnan(values[f"iou_{name}"][c])
                continue
            assert values[f"iou_{name}"][c] == pytest.approx(both / either)
            if any(y == index for _, y in pairs):
                of_labels.append(both / either)
        assert values["miou"][c] == pytest.approx(np.mean(of_labels))
    if absent is not None:
        assert values["iou_tree"][0] == 0.0
        assert np.isnan(values["iou_tree"][1:]).all()


@pytest.mark.parametrize("ignore_index", [None, 255, 0])
def test_label_maps_against_torchmetrics(ignore_index: int | None) -> None:
    from torchmetrics.functional.classification import multiclass_accuracy, multiclass_jaccard_index

    logits, labels = random_maps(2, 6, ignore_index, seed=2)
    values = tally_of(logits, labels, ignore_index, size=6).values()
    for c in range(2):
        predicted = logits[c].argmax(-1)
        arguments = (predicted, labels, len(NAMES))
        by_class = multiclass_jaccard_index(*arguments, average="none", ignore_index=ignore_index)
        got = [values[f"iou_{name}"][c] for name in NAMES]
        start = 1 if ignore_index == 0 else 0  # a class that is ignored has no pixels, whatever is predicted there
        np.testing.assert_allclose(got[start:], by_class[start:], rtol=1e-6)
        assert values["miou"][c] == pytest.approx(by_class[start:].mean().item(), rel=1e-6)
        accuracy = multiclass_accuracy(*arguments, average="micro", ignore_index=ignore_index)
        assert values["pixel_accuracy"][c] == pytest.approx(accuracy.item(), rel=1e-6)


def test_a_map_without_labels_has_a_score() -> None:
    logits, labels = random_maps(2, 3, 255, seed=3)
    labels[1] = 255
    tally = tally_of(logits, labels, 255, size=3)
    assert (tally.scores()[:, 1] == 0).all()
    assert np.isfinite(tally.values()["pixel_accuracy"]).all()


# --- batches --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 3, 4])
def test_label_maps_in_batches_are_those_at_once(size: int) -> None:
    logits, labels = random_maps(3, 10, 255, seed=4)
    in_batches, at_once = tally_of(logits, labels, 255, size), tally_of(logits, labels, 255, 10)
    np.testing.assert_array_equal(in_batches.scores(), at_once.scores())
    assert in_batches.values().keys() == at_once.values().keys()
    for name, value in at_once.values().items():
        np.testing.assert_array_equal(in_batches.values()[name], value, err_msg=name)


@pytest.mark.parametrize("size", [1, 3, 4])
def test_samples_in_batches_are_those_at_once(size: int) -> None:
    logits, labels = random_logits(3, 10, 4, seed=5)
    tally = make_tally("classification", NAMES, None)
    assert isinstance(tally, ClassificationTally)
    for x, y in zip(logits.split(size, dim=1), labels.split(size), strict=True):
        tally.add(x, y)
    expected = score(logits, labels)
    assert tally.values().keys() == expected.keys()
    for name, value in tally.values().items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)
    right = [[float(logits[c, n].argmax() == labels[n]) for n in range(10)] for c in range(3)]
    np.testing.assert_array_equal(tally.scores(), right)
    np.testing.assert_allclose(tally.scores().mean(1), expected["accuracy"], rtol=1e-6)


def test_a_task_has_its_tally() -> None:
    tally = make_tally("segmentation", NAMES, 255)
    assert isinstance(tally, SegmentationTally)
    assert (tally.class_names, tally.ignore_index) == (NAMES, 255)
