"""Evaluation of every combination of a split from one encoding of each modality, and DMRNet's own diagnostics.

Letters: C combinations, N samples, B samples of a batch, L classes, Z features of the embedding.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dmr.combinations import Combinations, complete_metric
from dmr.data.batches import Batches
from dmr.data.dataset import MultimodalDataset
from dmr.distributed.ranks import ALONE, Ranks
from dmr.fusion import keep_present
from dmr.methods.base import Prediction
from dmr.methods.summed_heads import DescribedCombinations
from dmr.metrics import METRICS, Tally, Values, make_tally
from dmr.networks.network import Network
from dmr.sampling import available_in

EVALUATION_BATCH = 512
EVALUATION_VALUES = 2**24  # of one modality
EVALUATION_LOGITS = 2**28
CPU_VALUES, CPU_BATCH = 2**17, 16  # of one modality on a CPU: activations that stay in its cache; but so many samples
KEPT_FEATURES = 2**24  # values of a split's features that are kept for the diagnostics; else it is encoded again


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
    found = SplitEvaluation(network, dataset, batches, combinations, ranks, observer)
    return Evaluation(found.values(), found.scores(), found.diagnostics())


class SplitEvaluation:
    """One pass over a split, in which no batch waits for a GPU; then what is asked of it, as far as it is asked."""

    @torch.no_grad()
    def __init__(
        self,
        network: Network,
        dataset: MultimodalDataset,
        batches: Batches,
        combinations: Combinations,
        ranks: Ranks = ALONE,
        observer: Observer | None = None,
    ) -> None:
        """As `evaluate`. The network has to stay as it is until all was asked."""
        self.network, self.batches, self.ranks = network.eval(), batches, ranks
        masks, device = torch.from_numpy(combinations.masks), batches.device
        self.masks = masks.pin_memory() if device.type == "cuda" else masks
        self.masks_there = masks.to(device)
        has = None if batches.split.present is None else torch.from_numpy(batches.split.has())
        self.has = None if has is None else has.to(device)
        self.tally = make_tally(dataset.task, dataset.class_names, dataset.ignore_index)
        self.of_complete: Tally | None = None
        if has is not None and not has.all() and has.all(1).any():
            self.of_complete = make_tally(dataset.task, dataset.class_names, dataset.ignore_index)
        self.samples = torch.zeros(len(masks), dtype=torch.int64, device=device)  # (C,) that have all of a combination
        self.described = _Described(len(masks), dataset.num_classes if dataset.task == "classification" else None)
        self.summed = None if observer is not None else network.method.summed()
        self.kept: list[tuple[slice, Tensor, list[Tensor] | None]] = []  # parts, their labels and features
        self.kept_values = 0
        self._run(evaluation_parts(dataset, batches, len(masks), ranks), observer)

    def values(self, metrics: Collection[str] | None = None) -> Values:
        """(C,) by metric: all of them, or these."""
        values = self.tally.values(metrics)
        if self.has is not None:
            values["samples"] = self.samples.double().cpu().numpy()
        if self.of_complete is not None:
            found = self.of_complete.values(metrics)
            values |= {complete_metric(name): row for name, row in found.items() if name in METRICS}
        return values

    def scores(self) -> npt.NDArray[np.float32]:
        return self.tally.scores()

    @torch.no_grad()
    def diagnostics(self) -> dict[str, float]:
        """`variance_error_correlation` and `class_mean_cosine`, where they are defined."""
        for part, labels, contexts in self.kept:
            self._describe(part, labels, contexts or self._contexts(part, self.batches.take(_positions(part))[0]))
        self.kept = []
        found = {"class_mean_cosine": self.described.cosine(self.ranks)}
        variance = self.described.total_variance(self.ranks)
        if variance is not None:
            met = (self.samples > 0).cpu().numpy()
            error = 1.0 - np.nanmean(self.scores()[met], axis=1)
            mean = (variance / self.samples).cpu().numpy()
            found["variance_error_correlation"] = rank_correlation(mean[met], error)
        return {name: value for name, value in found.items() if math.isfinite(value)}

    def _run(self, parts: Sequence[slice], observer: Observer | None) -> None:
        for part, (inputs, labels) in zip(parts, self.batches.stream(map(_positions, parts)), strict=True):
            available = self._available(part)
            if self.summed is None:
                found = self.network.predict(inputs, self.masks)
                logits = found.logits
                everything = DescribedCombinations(slice(None), found.embedding, found.variance)
                self.described.add(everything, labels, available)
                if observer is not None:
                    observer(_positions(part), found, available)
            else:
                contexts = self._contexts(part, inputs)
                with self._exact():
                    logits = self.summed.logits(contexts, self.masks_there)
                self._keep(part, labels, contexts)
            self.tally.add(logits, labels, available)
            if self.of_complete is not None and self.has is not None:
                self.of_complete.add(logits, labels, self.has[part].all(1).expand(len(self.masks), -1))
            self.samples += available.sum(1)
        if self.ranks.count > 1:
            for tally in (self.tally, self.of_complete):
                if tally is not None:
                    tally.join(self.ranks, len(self.batches))
            self.samples = self.ranks.total(self.samples)

    def _available(self, part: slice) -> Tensor:
        """(C, B) bool: which samples of a part have all modalities of a combination."""
        if self.has is None:
            return torch.ones((len(self.masks), part.stop - part.start), dtype=torch.bool, device=self.batches.device)
        return available_in(self.masks_there, self.has[part])

    def _contexts(self, part: slice, inputs: Mapping[str, Tensor]) -> list[Tensor]:
        """Features (B, *S, D) of each modality in float32, zero where a sample lacks it, whatever stands there."""
        contexts = [features.float() for features in self.network.encode(inputs).contexts]
        if self.has is None:
            return contexts
        has = self.has[part].T[:, None]  # (M, 1, B)
        return [keep_present(there[..., None], 0, f)[0] for there, f in zip(has, contexts, strict=True)]

    def _keep(self, part: slice, labels: Tensor, contexts: list[Tensor]) -> None:
        """Remember a part for `diagnostics`, and its features as long as those of all parts fit."""
        size = sum(features.numel() for features in contexts)
        self.kept_values += size
        self.kept.append((part, labels, contexts if self.kept_values <= KEPT_FEATURES else None))

    def _describe(self, part: slice, labels: Tensor, contexts: list[Tensor]) -> None:
        assert self.summed is not None
        available = self._available(part)
        with self._exact():
            for found in self.summed.described(contexts, self.masks_there):
                self.described.add(found, labels, available[found.rows])

    def _exact(self) -> torch.autocast:
        """Sums are as exact with bfloat16 as without."""
        return torch.autocast(self.batches.device.type, enabled=False)


def _positions(part: slice) -> Tensor:
    return torch.arange(part.start, part.stop)


def evaluation_parts(dataset: MultimodalDataset, batches: Batches, combinations: int, ranks: Ranks) -> list[slice]:
    """The samples of this rank in batches, so small that neither their inputs nor their logits are too many; a rank
    without samples has one batch without any.
    """
    largest = max(math.prod(modality.shape) for modality in dataset.modalities)
    logits = combinations * dataset.num_classes * math.prod(batches.split.labels.shape[1:])
    size = min(EVALUATION_BATCH, EVALUATION_VALUES // largest, EVALUATION_LOGITS // logits)
    if batches.device.type == "cpu":
        size = min(size, max(CPU_BATCH, CPU_VALUES // largest))
    first, end = ranks.bounds(len(batches))
    return [slice(start, min(start + max(1, size), end)) for start in range(first, max(end, first + 1), max(1, size))]


class _Described:
    """Sums over samples of the predicted variance, and of the embeddings of each class, in each combination."""

    def __init__(self, combinations: int, num_classes: int | None) -> None:
        """`num_classes`: None where samples have no class."""
        self.combinations, self.num_classes = combinations, num_classes
        self.variance: Tensor | None = None  # (C,)
        self.embedding: Tensor | None = None  # (C, L, Z)

    def add(self, found: DescribedCombinations, labels: Tensor, available: Tensor) -> None:
        """What is known of some combinations of labels (B,), as far as they are `available` (c, B)."""
        if found.variance is not None:
            if self.variance is None:
                self.variance = torch.zeros(self.combinations, dtype=torch.float64, device=labels.device)
            self.variance[found.rows] += torch.where(available, found.variance, 0.0).double().sum(1)
        if found.embedding is not None and self.num_classes is not None:
            if self.embedding is None:
                shape = (self.combinations, self.num_classes, found.embedding.shape[-1])
                self.embedding = torch.zeros(shape, device=labels.device)
            with torch.autocast(labels.device.type, enabled=False):  # index_add_ on a GPU has an order of its own
                embedding = torch.where(available[..., None], found.embedding.float(), 0.0)
                of_class = torch.arange(self.num_classes, device=labels.device)[:, None] == labels  # (L, B)
                self.embedding[found.rows] += of_class.to(embedding.dtype) @ embedding

    def total_variance(self, ranks: Ranks) -> Tensor | None:
        """(C,) of all ranks; None for a method that predicts none."""
        return None if self.variance is None else ranks.total(self.variance)

    def cosine(self, ranks: Ranks) -> float:
        return math.nan if self.embedding is None else class_mean_cosine(ranks.total(self.embedding))


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
