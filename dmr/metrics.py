"""Metrics per combination, and their summaries over combinations.

Letters: C combinations, N samples, B samples of a batch, P pixels of a label map, L classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dmr.combinations import Combinations, complete_metric
from dmr.direction import Direction
from dmr.distributed.ranks import Ranks

ECE_BINS = 15
SUMMARIES = ("mean", "worst", "full", "expected")
Values = dict[str, npt.NDArray[np.float64]]


@dataclass(frozen=True)
class Metric:
    """A metric's name, which way is better, and what it needs. Declared once; search, scheduler and plots read it.

    Attributes:
        compute: classification: logits (C, N, L) and labels (N,) to (C,); segmentation: confusion (C, L, L) to (C,).
        two_classes: only for data with two classes.
    """

    name: str
    direction: Direction
    task: Literal["classification", "segmentation"]
    compute: Callable[..., Tensor]
    two_classes: bool = False


def _accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    return (logits.argmax(-1) == labels).float().mean(-1)


def _macro_f1(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean over the classes that are in the labels or predicted."""
    combinations, classes = len(logits), logits.shape[-1]
    predicted = logits.argmax(-1)
    cells = predicted + classes * torch.arange(combinations, device=logits.device)[:, None]
    hit, found = (
        x.bincount(minlength=combinations * classes).view(combinations, classes)
        for x in (cells[predicted == labels], cells.flatten())
    )
    return (2 * hit / (found + labels.bincount(minlength=classes))).nanmean(-1)


def _nll(logits: Tensor, labels: Tensor) -> Tensor:
    return -logits.log_softmax(-1).gather(-1, labels.expand(logits.shape[:-1])[..., None]).squeeze(-1).mean(-1)


def _ece(logits: Tensor, labels: Tensor) -> Tensor:
    """Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, equation 3: in each bin of the confidence, how
    far it is from the share that is right, over all samples.
    """
    confidence = logits.softmax(-1).amax(-1)
    edges = torch.linspace(0, 1, ECE_BINS + 1, dtype=confidence.dtype, device=confidence.device)
    bins = torch.bucketize(confidence, edges, right=True) - 1  # a confidence of 1 has a bin of its own
    excess = (logits.argmax(-1) == labels).to(confidence.dtype) - confidence
    gaps = torch.stack([torch.where(bins == b, excess, 0.0).sum(-1) for b in range(len(edges))], dim=-1)
    return gaps.abs().sum(-1) / len(labels)


def _apcer(logits: Tensor, labels: Tensor) -> Tensor:
    """Attacks (class 0) accepted as genuine (class 1) / attacks (ISO/IEC 30107-3)."""
    return _error_rate(logits, labels, 0)


def _bpcer(logits: Tensor, labels: Tensor) -> Tensor:
    """Genuine samples (class 1) rejected / genuine samples."""
    return _error_rate(logits, labels, 1)


def _acer(logits: Tensor, labels: Tensor) -> Tensor:
    return (_apcer(logits, labels) + _bpcer(logits, labels)) / 2


def _error_rate(logits: Tensor, labels: Tensor, of: int) -> Tensor:
    """(C,) share of the samples of a class that are not predicted as it; 0 where there are none."""
    wrong = (logits.argmax(-1) != labels) & (labels == of)
    return wrong.sum(-1) / (labels == of).sum().clamp(min=1)


def iou(confusion: Tensor) -> Tensor:
    """(C, L) intersection over union of each class, NaN where it is neither in the labels nor predicted."""
    hit = confusion.diagonal(dim1=-2, dim2=-1).double()
    return hit / (confusion.sum(-1) + confusion.sum(-2) - hit)


def _miou(confusion: Tensor) -> Tensor:
    """Mean over the classes that are in the labels."""
    occurs = confusion.sum(-1) > 0
    return torch.where(occurs, iou(confusion), torch.nan).nanmean(-1)


def _pixel_accuracy(confusion: Tensor) -> Tensor:
    return confusion.diagonal(dim1=-2, dim2=-1).sum(-1) / confusion.sum((-2, -1))


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("accuracy", Direction.MAX, "classification", _accuracy),
        Metric("macro_f1", Direction.MAX, "classification", _macro_f1),
        Metric("nll", Direction.MIN, "classification", _nll),
        Metric("ece", Direction.MIN, "classification", _ece),
        Metric("acer", Direction.MIN, "classification", _acer, two_classes=True),
        Metric("apcer", Direction.MIN, "classification", _apcer, two_classes=True),
        Metric("bpcer", Direction.MIN, "classification", _bpcer, two_classes=True),
        Metric("miou", Direction.MAX, "segmentation", _miou),
        Metric("pixel_accuracy", Direction.MAX, "segmentation", _pixel_accuracy),
    )
}
MAIN_METRICS = {"classification": "accuracy", "segmentation": "miou"}


def metrics_of(task: str, num_classes: int) -> dict[str, Metric]:
    """The metrics that data of this task and number of classes have."""
    return {
        name: metric
        for name, metric in METRICS.items()
        if metric.task == task and (num_classes == 2 or not metric.two_classes)
    }


def score(logits: Tensor, labels: Tensor) -> Values:
    """Every classification metric by name, each (C,), from logits (C, N, L) and labels (N,).

    Raises:
        ValueError: the shapes do not agree.
    """
    if logits.ndim != 3 or labels.shape != logits.shape[1:2]:
        raise ValueError(f"logits {tuple(logits.shape)} are not (C, N, L) for labels {tuple(labels.shape)}")
    wanted = metrics_of("classification", logits.shape[-1])
    return {name: metric.compute(logits, labels).double().cpu().numpy() for name, metric in wanted.items()}


class ClassificationTally:
    """Keeps the logits of all batches."""

    def __init__(self) -> None:
        self.logits: list[Tensor] = []
        self.labels: list[Tensor] = []
        self.available: list[Tensor] = []

    def add(self, logits: Tensor, labels: Tensor, available: Tensor | None = None) -> None:
        """Logits (C, B, L), labels (B,), and which samples have a combination, `available` (C, B); None is all."""
        self.logits.append(logits.float())
        self.labels.append(labels)
        self.available.append(torch.ones_like(logits[..., 0], dtype=torch.bool) if available is None else available)

    def join(self, ranks: Ranks, count: int) -> None:
        """Take in what the other ranks have of the `count` samples."""
        self.logits = [ranks.joined(torch.cat(self.logits, dim=1), count, 1)]
        self.labels = [ranks.joined(torch.cat(self.labels), count)]
        self.available = [ranks.joined(torch.cat(self.available, dim=1), count, 1)]

    def values(self) -> Values:
        logits, labels, available = (
            torch.cat(self.logits, dim=1),
            torch.cat(self.labels),
            torch.cat(self.available, dim=1),
        )
        if available.all():
            return score(logits, labels)
        names = metrics_of("classification", logits.shape[-1])
        rows = [
            score(x[None, keep], labels[keep]) if keep.any() else None
            for x, keep in zip(logits, available, strict=True)
        ]
        return {name: np.array([np.nan if row is None else row[name][0] for row in rows]) for name in names}

    def scores(self) -> npt.NDArray[np.float32]:
        """(C, N) 1 where the prediction is right, else 0."""
        batches = zip(self.logits, self.labels, self.available, strict=True)
        right = [torch.where(available, (x.argmax(-1) == y).float(), torch.nan) for x, y, available in batches]
        return torch.cat(right, dim=1).cpu().numpy()


class SegmentationTally:
    """Keeps a confusion matrix per combination, and the pixel accuracy of each image."""

    def __init__(self, class_names: tuple[str, ...], ignore_index: int | None) -> None:
        self.class_names, self.ignore_index = class_names, ignore_index
        self.confusion: Tensor | None = None
        self.accuracy: list[Tensor] = []

    def add(self, logits: Tensor, labels: Tensor, available: Tensor | None = None) -> None:
        """Logits (C, B, *P, L), labels (B, *P), and which images have a combination,
        `available` (C, B); None is all.
        """
        available = (
            torch.ones(logits.shape[:2], dtype=torch.bool, device=labels.device) if available is None else available
        )
        count = len(self.class_names)
        valid = torch.ones_like(labels, dtype=torch.bool) if self.ignore_index is None else labels != self.ignore_index
        predicted = logits.argmax(-1)
        pairs = labels * count + predicted
        counted = [
            pair[valid & keep.view(-1, *[1] * (labels.ndim - 1))].bincount(minlength=count**2)
            for pair, keep in zip(pairs, available, strict=True)
        ]
        confusion = torch.stack(counted).view(-1, count, count)
        self.confusion = confusion if self.confusion is None else self.confusion + confusion
        right = ((predicted == labels) & valid).flatten(2).sum(-1)
        self.accuracy.append(torch.where(available, right / valid.flatten(1).sum(-1).clamp(min=1), torch.nan))

    def join(self, ranks: Ranks, count: int) -> None:
        """Take in what the other ranks have of the `count` images."""
        assert self.confusion is not None
        self.confusion = ranks.total(self.confusion)
        self.accuracy = [ranks.joined(torch.cat(self.accuracy, dim=1), count, 1)]

    def values(self) -> Values:
        """The segmentation metrics, and `iou_{class}` of each class."""
        assert self.confusion is not None
        wanted = metrics_of("segmentation", len(self.class_names))
        values = {name: metric.compute(self.confusion).double().cpu().numpy() for name, metric in wanted.items()}
        by_class = iou(self.confusion).cpu().numpy().T
        return values | {f"iou_{name}": row for name, row in zip(self.class_names, by_class, strict=True)}

    def scores(self) -> npt.NDArray[np.float32]:
        """(C, N) share of an image's pixels that are right."""
        return torch.cat(self.accuracy, dim=1).float().cpu().numpy()


Tally = ClassificationTally | SegmentationTally


def make_tally(task: str, class_names: tuple[str, ...], ignore_index: int | None) -> Tally:
    """An empty tally for data of this task."""
    return SegmentationTally(class_names, ignore_index) if task == "segmentation" else ClassificationTally()


def summarise(
    values: Mapping[str, npt.NDArray[Any]],
    combinations: Combinations,
    weights: npt.NDArray[np.float64] | None = None,
) -> dict[str, float]:
    """`{metric}_mean`, `_worst`, `_full` over combinations, and `_expected` where `weights` (C,) are given.

    Where samples lack modalities, all of them are of the samples that have all, whose number is `samples_complete`:
    values of different samples do not compare. Where that is 0, there is no worst and no full; mean and expected are
    then over the combinations that some sample has, each on its own samples, which is fair between networks on the
    same data and not between combinations, and `combinations_covered` says how many these are.

    Args:
        values: (C,) by metric, as `dmr.evaluation.evaluate` returns them; what is no metric of its own, such as the IoU
            of one class, is left out.
        weights: how likely each combination is met.
    """
    summary: dict[str, float] = {}
    samples = np.asarray(values.get("samples", np.ones(len(combinations))))
    covered, comparable = samples > 0, samples[combinations.full] > 0
    if samples.min() < samples.max():
        summary["samples_complete"] = float(samples[combinations.full])
    if not comparable:
        summary["combinations_covered"] = float(covered.sum())
    for name, metric in METRICS.items():
        if name not in values:
            continue
        value = values.get(complete_metric(name), values[name])
        summary[f"{name}_mean"] = float(value[covered].mean())
        if comparable:
            summary[f"{name}_worst"] = float(metric.direction.worst(value.tolist()))
            summary[f"{name}_full"] = float(value[combinations.full])
        if weights is not None and weights[covered].sum() > 0:
            summary[f"{name}_expected"] = float(value[covered] @ weights[covered] / weights[covered].sum())
    return summary
