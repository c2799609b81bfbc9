"""Metrics a combination, and their summaries over combinations.

Letters: C combinations, N samples, L classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dmr.combinations import Combinations

ECE_BINS = 15
SUMMARIES = ("mean", "worst", "full", "expected")


@dataclass(frozen=True)
class Metric:
    """A metric's name, which way is better, and its unit. Declared once; search, scheduler and plots read it."""

    name: str
    task: Literal["classification", "segmentation"]
    direction: Literal["max", "min"]
    unit: str
    compute: Callable[[Tensor, Tensor], Tensor]  # logits (C, N, L), labels (N,) → (C,)


def _accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    from torchmetrics.functional.classification import multiclass_accuracy

    predicted = logits.argmax(-1)
    accuracy: Tensor = multiclass_accuracy(
        predicted, labels.expand_as(predicted), logits.shape[-1], average="micro", multidim_average="samplewise"
    )
    return accuracy


def _macro_f1(logits: Tensor, labels: Tensor) -> Tensor:
    from torchmetrics.functional.classification import multiclass_f1_score

    predicted = logits.argmax(-1)
    f1: Tensor = multiclass_f1_score(
        predicted, labels.expand_as(predicted), logits.shape[-1], average="macro", multidim_average="samplewise"
    )
    return f1


def _nll(logits: Tensor, labels: Tensor) -> Tensor:
    return -logits.log_softmax(-1).gather(-1, labels.expand(logits.shape[:-1])[..., None]).squeeze(-1).mean(-1)


def _ece(logits: Tensor, labels: Tensor) -> Tensor:
    from torchmetrics.functional.classification import multiclass_calibration_error

    count = logits.shape[-1]
    return torch.stack(
        [multiclass_calibration_error(p, labels, count, n_bins=ECE_BINS, norm="l1") for p in logits.softmax(-1)]
    )


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("accuracy", "classification", "max", "share of samples", _accuracy),
        Metric("macro_f1", "classification", "max", "0 to 1", _macro_f1),
        Metric("nll", "classification", "min", "nats", _nll),
        Metric("ece", "classification", "min", "0 to 1", _ece),
        Metric("miou", "segmentation", "max", "0 to 1", _accuracy),
    )
}
MAIN_METRICS = {"classification": "accuracy", "segmentation": "miou"}
MAIN_METRIC = MAIN_METRICS["classification"]


def score(logits: Tensor, labels: Tensor) -> dict[str, npt.NDArray[np.float64]]:
    """Every metric by name, each (C,), from logits (C, N, L) and labels (N,).

    Raises:
        ValueError: the shapes do not agree.
    """
    if logits.ndim != 3 or labels.shape != logits.shape[1:2]:
        raise ValueError(f"logits {tuple(logits.shape)} are not (C, N, L) for labels {tuple(labels.shape)}")
    return {
        name: metric.compute(logits, labels).double().cpu().numpy()
        for name, metric in METRICS.items()
        if metric.task == "classification"
    }


def summarise(
    values: Mapping[str, npt.NDArray[np.float64]],
    combinations: Combinations,
    weights: npt.NDArray[np.float64] | None = None,
) -> dict[str, float]:
    """`{metric}_mean`, `_worst`, `_full` over combinations, and `_expected` where `weights` (C,) are given.

    Args:
        values: (C,) by metric.
        weights: how likely each combination is met; they sum to 1.
    """
    summary: dict[str, float] = {}
    for name, value in values.items():
        worst = np.min if METRICS[name].direction == "max" else np.max
        summary[f"{name}_mean"] = float(value.mean())
        summary[f"{name}_worst"] = float(worst(value))
        summary[f"{name}_full"] = float(value[combinations.full])
        if weights is not None:
            summary[f"{name}_expected"] = float(value @ weights)
    return summary
