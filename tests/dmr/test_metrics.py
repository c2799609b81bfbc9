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
from dmr.metrics import ECE_BINS, MAIN_METRIC, METRICS, score, summarise


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
    assert set(got) == set(METRICS)
    for c in range(3):
        predicted = logits[c].argmax(-1).numpy()
        probabilities = logits[c].double().softmax(-1).numpy()
        assert got["accuracy"][c] == pytest.approx(accuracy_score(labels, predicted), abs=1e-6)
        assert got["macro_f1"][c] == pytest.approx(f1_score(labels, predicted, average="macro"), abs=1e-6)
        assert got["nll"][c] == pytest.approx(log_loss(labels, probabilities, labels=range(classes)), abs=1e-5)
        assert got["ece"][c] == pytest.approx(calibration_error(probabilities, labels.numpy()), abs=1e-5)


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


def test_every_metric_declares_which_way_is_better() -> None:
    assert MAIN_METRIC in METRICS
    assert {name: metric.direction for name, metric in METRICS.items()} == {
        "accuracy": "max",
        "macro_f1": "max",
        "nll": "min",
        "ece": "min",
    }
    assert all(name == metric.name for name, metric in METRICS.items())
