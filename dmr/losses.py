"""The task loss of classification and segmentation, class-weighted where asked.

Letters: B samples, P pixels of a label map (none in classification), L classes; `...` is any leading dimensions.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dmr.distributed.ranks import BatchShard
from dmr.settings import ClassWeights

IGNORED = -100  # of torch's cross-entropy


class TaskLoss(nn.Module):
    """Cross-entropy of each sample; in segmentation its mean over the pixels that are not ignored."""

    def __init__(self, weights: Tensor | None = None, ignore_index: int | None = None) -> None:
        super().__init__()
        self.ignore_index = IGNORED if ignore_index is None else ignore_index
        self.register_buffer("weights", weights, persistent=False)
        self.weights: Tensor | None

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """(..., B) from logits (..., B, *P, L) and labels (B, *P).

        Raises:
            ValueError: the shapes do not agree.
        """
        if logits.shape[-labels.ndim - 1 : -1] != labels.shape:
            raise ValueError(f"logits {tuple(logits.shape)} do not fit labels {tuple(labels.shape)}")
        repeated = labels.expand(logits.shape[:-1])
        loss = F.cross_entropy(
            logits.float().reshape(-1, logits.shape[-1]),
            repeated.reshape(-1),
            weight=self.weights,
            ignore_index=self.ignore_index,
            reduction="none",
        ).view(repeated.shape)
        if labels.ndim == 1:
            return loss
        valid = (labels != self.ignore_index).flatten(1).sum(1).clamp(min=1)
        return loss.flatten(-labels.ndim + 1).sum(-1) / valid

    def class_counts(self, labels: Tensor, num_classes: int) -> Tensor:
        """(L,) float64: how many of the labels (B, *P) that are not ignored are of each class, times its weight."""
        flat = labels.flatten()
        counted = flat != self.ignore_index
        counts = flat.new_zeros(num_classes).scatter_add_(0, torch.where(counted, flat, 0), counted.long()).double()
        return counts if self.weights is None else counts * self.weights


def masked_mean(values: Tensor, mask: Tensor, part: BatchShard | None = None) -> Tensor:
    """() the mean of the values where `mask` (of their shape) is True, 0 where it nowhere is; where the samples are a
    part of a batch, what counts is how many there are in all of it.
    """
    count = mask.sum().clamp(min=1) if part is None else part.counted(mask.sum())
    return torch.where(mask, values, 0.0).sum() / count


def class_weights(
    labels: Iterable[npt.NDArray[np.int64]], num_classes: int, kind: ClassWeights, ignore_index: int | None = None
) -> Tensor | None:
    """(L,) weights of the classes in `labels`, (N,) or label maps one by one; None for `none`.

    inverse: 1/f, f the frequency of the class among all labels. median: 1/f, f its frequency among the pixels of the
    images it occurs in, which is median-frequency balancing (Eigen, Fergus, ICCV 2015) up to a factor; labels (N,) are
    the pixels of one image, so that it is `inverse` for them. Both are scaled so that their mean over the labels is 1;
    a class that never occurs has weight 0.
    """
    if kind == "none":
        return None
    images = [labels] if isinstance(labels, np.ndarray) and labels.ndim == 1 else labels
    counts = np.zeros(num_classes)
    around = np.zeros(num_classes)
    for image in images:
        row = np.asarray(image).reshape(-1)
        kept = row if ignore_index is None else row[row != ignore_index]
        count = np.bincount(kept, minlength=num_classes)
        counts += count
        around += np.where(count > 0, len(kept), 0)
    share = counts / counts.sum()
    frequency = counts / np.maximum(around, 1) if kind == "median" else share
    weights = np.divide(1.0, frequency, out=np.zeros(num_classes), where=frequency > 0)
    return torch.from_numpy(weights / (weights * share).sum()).float()
