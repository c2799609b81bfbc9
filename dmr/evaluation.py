"""Evaluation of every combination of a split from one encoding of each modality, and DMRNet's own diagnostics.

Letters: C combinations, N samples, B samples of a batch, L classes, Z features of the embedding.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dmr.combinations import Combinations, complete_metric
from dmr.data.batches import Batches
from dmr.data.dataset import MultimodalDataset
from dmr.distributed.ranks import ALONE, Ranks
from dmr.methods.base import Prediction
from dmr.metrics import METRICS, Values, make_tally
from dmr.networks.network import Network
from dmr.sampling import available_in

EVALUATION_BATCH = 512
EVALUATION_VALUES = 2**24  # of one modality
EVALUATION_LOGITS = 2**28


class Evaluation(NamedTuple):
    """What a split says of a network.

    Attributes:
        values: (C,) by metric, each combination on the samples that have all of it, NaN where none has. Where samples
            lack modalities, also their number, `samples`, and where some have all modalities, `{metric}_complete`:
            each combination on those alone, the only ones on which combinations can be compared.
        scores: (C, N) of each sample, higher is better: 1 where it is right, or the share of its pixels that are; NaN
            where it lacks a modality of the combination.
        diagnostics: `variance_error_correlation` and `class_mean_cosine`, where they are defined.
    """

    values: Values
    scores: npt.NDArray[np.float32]
    diagnostics: dict[str, float]


Observer = Callable[[Tensor, Prediction, Tensor], None]
"""Is shown the positions (B,) of some samples, what is predicted of them, and which count for a combination, (C, B)."""


@torch.no_grad()
def evaluate(
    network: Network,
    dataset: MultimodalDataset,
    batches: Batches,
    combinations: Combinations,
    ranks: Ranks = ALONE,
    observer: Observer | None = None,
) -> Evaluation:
    """Every metric of every combination on all samples of a split: each modality is encoded once, then fused once per
    combination. Each rank evaluates a part of the samples; all return what one would.

    Example:
        >>> import torch
        >>> from dmr.combinations import evaluated_combinations
        >>> from dmr.data.batches import Batches
        >>> from dmr.data.digits import digits
        >>> from dmr.encoders import default_encoder
        >>> from dmr.methods.dropout import DropoutSettings
        >>> from dmr.runs.run_settings import RunSettings, build_network
        >>> from dmr.settings import SamplingSettings, TrainSettings
        >>> dataset = digits()
        >>> encoders = {modality.name: default_encoder(modality) for modality in dataset.modalities}
        >>> settings = RunSettings(
        ...     DropoutSettings(), encoders, SamplingSettings(), TrainSettings(),
        ...     fusion="concat", select="val/nll_mean", select_mode="min", deployment=None, seed=0,
        ... )
        >>> network = build_network(dataset, settings)
        >>> val = Batches(dataset.splits["val"], torch.device("cpu"))
        >>> found = evaluate(network, dataset, val, evaluated_combinations(dataset.modality_names))
        >>> found.values["accuracy"].shape  # of each combination of the four quadrants
        (15,)
        >>> found.scores.shape == (15, len(val))
        True
    """
    network.eval()
    masks = torch.from_numpy(combinations.masks)
    tally = make_tally(dataset.task, dataset.class_names, dataset.ignore_index)
    means = _ClassMeans(dataset.num_classes) if dataset.task == "classification" else None
    variance, samples = torch.zeros((2, len(masks)), dtype=torch.float64)
    has = None if batches.split.present is None else torch.from_numpy(batches.split.has())
    complete = None if has is None or has.all() or not has.all(1).any() else has.all(1)
    of_complete = None if complete is None else make_tally(dataset.task, dataset.class_names, dataset.ignore_index)
    has_variance = True
    parts = torch.split(torch.arange(*ranks.bounds(len(batches))), _at_once(dataset, batches, len(masks)))
    for positions, (inputs, labels) in zip(parts, batches.stream(parts), strict=True):
        found = network.predict(inputs, masks)
        available = (
            torch.ones((len(masks), len(positions)), dtype=torch.bool)
            if has is None
            else available_in(masks, has[positions])
        )
        available = available.to(labels.device)
        tally.add(found.logits, labels, available)
        if of_complete is not None and complete is not None:
            of_complete.add(found.logits, labels, complete[positions].to(labels.device).expand(len(masks), -1))
        if observer is not None:
            observer(positions, found, available)
        samples += available.sum(1).cpu()
        has_variance = has_variance and found.variance is not None
        if found.variance is not None:
            variance += torch.where(available, found.variance, 0.0).double().sum(1).cpu()
        if means is not None and found.embedding is not None:
            means.add(torch.where(available[..., None], found.embedding.float(), 0.0), labels)
    if ranks.count > 1:
        tally.join(ranks, len(batches))
        if of_complete is not None:
            of_complete.join(ranks, len(batches))
        variance, samples = ranks.total(torch.stack([variance, samples]))
        if means is not None and means.sums is not None:
            means.sums = ranks.total(means.sums)
    scores = tally.scores()
    diagnostics = {"class_mean_cosine": means.cosine()} if means is not None else {}
    values = tally.values()
    met = (samples > 0).numpy()
    if has_variance:
        error = 1.0 - np.nanmean(scores[met], axis=1)
        diagnostics["variance_error_correlation"] = rank_correlation((variance / samples).numpy()[met], error)
    if has is not None:
        values["samples"] = samples.numpy()
    if of_complete is not None:
        values |= {complete_metric(name): row for name, row in of_complete.values().items() if name in METRICS}
    known = {name: value for name, value in diagnostics.items() if math.isfinite(value)}
    return Evaluation(values, scores, known)


def _at_once(dataset: MultimodalDataset, batches: Batches, combinations: int) -> int:
    """How many samples are evaluated together, so that neither their inputs nor their logits are too many."""
    largest = max(math.prod(modality.shape) for modality in dataset.modalities)
    logits = combinations * dataset.num_classes * math.prod(batches.split.labels.shape[1:])
    return max(1, min(EVALUATION_BATCH, EVALUATION_VALUES // largest, EVALUATION_LOGITS // logits))


class _ClassMeans:
    """Sums of the embeddings of each class in each combination."""

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self.sums: Tensor | None = None  # (C, L, Z)

    def add(self, embedding: Tensor, labels: Tensor) -> None:
        """Embeddings (C, B, Z), labels (B,)."""
        if self.sums is None:
            self.sums = embedding.new_zeros((len(embedding), self.num_classes, embedding.shape[-1]))
        with torch.autocast(embedding.device.type, enabled=False):  # index_add_ on a GPU has an order of its own
            of_class = torch.nn.functional.one_hot(labels, self.num_classes).to(embedding.dtype)
            self.sums += of_class.T @ embedding

    def cosine(self) -> float:
        return math.nan if self.sums is None else class_mean_cosine(self.sums)


def class_mean_cosine(means: Tensor) -> float:
    """The cosine between the means of one class in two different combinations, averaged over pairs and classes, from
    means (or sums) (C, L, Z): the paper's claim is that a common subspace pulls these into one direction.

    Over n unit vectors v the mean over pairs is (‖Σ v‖² − n) / (n (n − 1)). Where a combination has no sample of a
    class it is left out, and so is a class with fewer than two combinations.
    """
    count = (means.abs().amax(-1) > 0).sum(0)  # (L,) n
    paired = count > 1
    unit = torch.nn.functional.normalize(means[:, paired].double(), dim=-1)
    count = count[paired]
    pairs = (unit.sum(0).square().sum(-1) - count) / (count * (count - 1))
    return float(pairs.mean())


def rank_correlation(first: npt.NDArray[Any], second: npt.NDArray[Any]) -> float:
    """Spearman's rank correlation, NaN where one of the two is constant or has NaN."""
    if np.isnan(first).any() or np.isnan(second).any():
        return math.nan
    ranks = [_ranks(values) - (len(values) + 1) / 2 for values in (first, second)]
    scale = math.sqrt(float((ranks[0] ** 2).sum() * (ranks[1] ** 2).sum()))
    return float(ranks[0] @ ranks[1]) / scale if scale else math.nan


def _ranks(values: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """From 1; equal values share their mean rank. As scipy.stats.rankdata, whose import takes a second."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: npt.NDArray[np.float64] = (counts.cumsum() - (counts - 1) / 2)[place]
    return ranks
