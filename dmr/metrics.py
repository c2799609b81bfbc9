"""Metrics per combination, and their summaries over combinations.

Letters: C combinations, N samples, B samples of a batch, P pixels of a label map, L classes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

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


class Outcomes(NamedTuple):
    """What the classification metrics need of predictions, made and kept without waiting for a GPU."""

    predicted: Tensor  # (C, N) int64
    confidence: Tensor  # (C, N) the probability of the predicted class
    nll: Tensor  # (C, N)
    labels: Tensor  # (N,)
    available: Tensor  # (C, N) bool: which samples count for a combination

    @classmethod
    def of(cls, logits: Tensor, labels: Tensor, available: Tensor | None = None) -> Outcomes:
        """From logits (C, N, L); all samples count where `available` is None."""
        largest, predicted = logits.max(-1)
        total = (logits - largest[..., None]).exp().sum(-1)
        of_label = logits.gather(-1, labels.expand(predicted.shape)[..., None]).squeeze(-1)
        if available is None:
            available = torch.ones_like(predicted, dtype=torch.bool)
        return cls(predicted, 1.0 / total, total.log() + (largest - of_label), labels, available)

    @property
    def right(self) -> Tensor:
        """(C, N) bool, only of what counts."""
        return (self.predicted == self.labels) & self.available

    def mean(self, values: Tensor) -> Tensor:
        """(C,) of values (C, N) over the samples that count; NaN where there are none."""
        return torch.where(self.available, values, 0.0).sum(-1) / self.available.sum(-1)


@dataclass(frozen=True)
class Metric:
    """A metric's name, which way is better, and what it needs. Declared once; search, scheduler and plots read it.

    Attributes:
        compute: classification: `Outcomes` and L to (C,); segmentation: confusion (C, L, L) to (C,).
        two_classes: only for data with two classes.
        each_epoch: known of every epoch that is evaluated; the others of the epoch the checkpoint is chosen at.
    """

    name: str
    direction: Direction
    task: Literal["classification", "segmentation"]
    compute: Callable[..., Tensor]
    two_classes: bool = False
    each_epoch: bool = True


def _accuracy(of: Outcomes, classes: int) -> Tensor:
    return of.right.sum(-1) / of.available.sum(-1)


def _macro_f1(of: Outcomes, classes: int) -> Tensor:
    """Mean over the classes that are in the labels or predicted."""
    hit = _counted(of.predicted, of.right, classes)
    found = _counted(of.predicted, of.available, classes)
    labelled = _counted(of.labels.expand(of.predicted.shape), of.available, classes)
    return (2 * hit / (found + labelled)).nanmean(-1)


def _counted(of: Tensor, kept: Tensor, classes: int) -> Tensor:
    """(C, L) how often each class is among those `kept` of the classes (C, N)."""
    cells = of + classes * torch.arange(len(of), device=of.device)[:, None]
    cells = torch.where(kept, cells, classes * len(of))
    return cells.flatten().bincount(minlength=classes * len(of) + 1)[:-1].view(len(of), classes)


def _nll(of: Outcomes, classes: int) -> Tensor:
    return of.mean(of.nll)


def _ece(of: Outcomes, classes: int) -> Tensor:
    """Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, equation 3: in each bin of the confidence, how
    far it is from the share that is right, over all samples.
    """
    edges = torch.linspace(0, 1, ECE_BINS + 1, dtype=of.confidence.dtype, device=of.confidence.device)
    bins = torch.bucketize(of.confidence, edges, right=True) - 1  # a confidence of 1 has a bin of its own
    excess = torch.where(of.available, of.right.to(of.confidence.dtype) - of.confidence, 0.0)
    gaps = torch.stack([torch.where(bins == b, excess, 0.0).sum(-1) for b in range(len(edges))], dim=-1)
    return gaps.abs().sum(-1) / of.available.sum(-1)


def _apcer(of: Outcomes, classes: int) -> Tensor:
    """Attacks (class 0) accepted as genuine (class 1) / attacks (ISO/IEC 30107-3)."""
    return _error_rate(of, 0)


def _bpcer(of: Outcomes, classes: int) -> Tensor:
    """Genuine samples (class 1) rejected / genuine samples."""
    return _error_rate(of, 1)


def _acer(of: Outcomes, classes: int) -> Tensor:
    return (_error_rate(of, 0) + _error_rate(of, 1)) / 2


def _error_rate(of: Outcomes, which: int) -> Tensor:
    """(C,) share of the samples of a class that are not predicted as it; 0 where none counts, NaN where no sample of
    any class does.
    """
    those = (of.labels == which) & of.available
    rate = (those & ~of.right).sum(-1) / those.sum(-1).clamp(min=1)
    return torch.where(of.available.any(-1), rate, torch.nan)


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
        Metric("macro_f1", Direction.MAX, "classification", _macro_f1, each_epoch=False),
        Metric("nll", Direction.MIN, "classification", _nll),
        Metric("ece", Direction.MIN, "classification", _ece, each_epoch=False),
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
    classes = logits.shape[-1]
    return _computed(metrics_of("classification", classes), Outcomes.of(logits, labels), classes)


def _computed(wanted: Mapping[str, Metric], *given: Any) -> Values:
    return {name: metric.compute(*given).double().cpu().numpy() for name, metric in wanted.items()}


class ClassificationTally:
    """Keeps the outcomes of all batches."""

    def __init__(self, classes: int) -> None:
        self.classes = classes
        self.batches: list[Outcomes] = []

    def add(self, logits: Tensor, labels: Tensor, available: Tensor | None = None) -> None:
        """Logits (C, B, L), labels (B,), and which samples have a combination, `available` (C, B); None is all."""
        self.batches.append(Outcomes.of(logits.float(), labels, available))

    def join(self, ranks: Ranks, count: int) -> None:
        """Take in what the other ranks have of the `count` samples."""
        self.batches = [Outcomes(*(ranks.joined(values, count, values.ndim - 1) for values in self.outcomes()))]

    def outcomes(self) -> Outcomes:
        """Of all samples so far."""
        return Outcomes(*(torch.cat(values, dim=-1) for values in zip(*self.batches, strict=True)))

    def values(self, metrics: Collection[str] | None = None) -> Values:
        """Every metric by name, or these, (C,); NaN for a combination that no sample has."""
        known = metrics_of("classification", self.classes)
        wanted = known if metrics is None else {name: known[name] for name in known if name in metrics}
        return _computed(wanted, self.outcomes(), self.classes)

    def scores(self) -> npt.NDArray[np.float32]:
        """(C, N) 1 where the prediction is right, else 0."""
        found = self.outcomes()
        return torch.where(found.available, found.right.float(), torch.nan).cpu().numpy()


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
        if available is None:
            available = torch.ones(logits.shape[:2], dtype=torch.bool, device=labels.device)
        count = len(self.class_names)
        valid = torch.ones_like(labels, dtype=torch.bool) if self.ignore_index is None else labels != self.ignore_index
        predicted = logits.argmax(-1)
        kept = valid & available.view(*available.shape, *[1] * (labels.ndim - 1))
        cells = torch.where(kept, labels * count + predicted, count**2).flatten(1)
        counted = cells.new_zeros((len(cells), count**2 + 1)).scatter_add_(
            1, cells, cells.new_ones(()).expand_as(cells)
        )
        confusion = counted[:, :-1].view(-1, count, count)
        self.confusion = confusion if self.confusion is None else self.confusion + confusion
        right = ((predicted == labels) & valid).flatten(2).sum(-1)
        self.accuracy.append(torch.where(available, right / valid.flatten(1).sum(-1).clamp(min=1), torch.nan))

    def join(self, ranks: Ranks, count: int) -> None:
        """Take in what the other ranks have of the `count` images."""
        assert self.confusion is not None
        self.confusion = ranks.total(self.confusion)
        self.accuracy = [ranks.joined(torch.cat(self.accuracy, dim=1), count, 1)]

    def values(self, metrics: Collection[str] | None = None) -> Values:
        """The segmentation metrics, all from one matrix, and `iou_{class}` of each class, whichever are asked for."""
        assert self.confusion is not None
        values = _computed(metrics_of("segmentation", len(self.class_names)), self.confusion)
        by_class = iou(self.confusion).cpu().numpy().T
        return values | {f"iou_{name}": row for name, row in zip(self.class_names, by_class, strict=True)}

    def scores(self) -> npt.NDArray[np.float32]:
        """(C, N) share of an image's pixels that are right."""
        return torch.cat(self.accuracy, dim=1).float().cpu().numpy()


Tally = ClassificationTally | SegmentationTally


def make_tally(task: str, class_names: tuple[str, ...], ignore_index: int | None) -> Tally:
    """An empty tally for data of this task."""
    if task == "segmentation":
        return SegmentationTally(class_names, ignore_index)
    return ClassificationTally(len(class_names))


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
