"""What a method owes: losses of a training step, predictions, and what it learns from an epoch's statistics.

Features have their channels last, (B, *S, D): S is empty for vectors and (H, W) for maps, so that a method is written
once for classification and segmentation.

Letters: M modalities, B samples, K combinations per sample, C combinations, S positions of a map, D features of a
modality, Z fused features, P pixels of a label map (none in classification), L classes, V hard combinations. Where
several ranks train one network, B are a rank's own samples and G those of all ranks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from dmr.combinations import Combinations
from dmr.data.transfer import to_device
from dmr.distributed.ranks import BatchShard, alone
from dmr.fusion import FusionModule
from dmr.losses import TaskLoss
from dmr.methods.heads import TaskHead, Trunk
from dmr.methods.summed_heads import Summed
from dmr.sampling import available_in


@dataclass(frozen=True)
class MethodSettings:
    """A method's own keys of `model` in the study file."""


class Features(NamedTuple):
    """What the encoders make of B samples; rows of absent modalities are zero."""

    contexts: Sequence[Tensor]  # of each modality (B, *S, D)
    skips: Sequence[Sequence[Tensor]]  # of each level, finest first, of each modality (B, D, H, W); for segmentation


class MaskedBatch(NamedTuple):
    """B samples, each seen with K combinations."""

    features: Features
    masks: Tensor  # (K, B, M) bool
    combination: Tensor  # (K, B) int64, indices of the combinations
    labels: Tensor  # (B, *P) int64
    inputs: Mapping[str, Tensor]  # (B, *shape) by modality, whatever the combinations
    needed: Tensor | None = None  # (B, M) bool on the CPU: what is encoded, by default what any combination has
    has: Tensor | None = None  # (G, M) bool on the CPU, the modalities a sample has at all; None where all have all
    share: BatchShard | None = None  # which samples of the global batch these are; None for all
    needed_on_any_rank: Tensor | None = (
        None  # (M,) bool on the CPU, what any sample of any rank needs; None as in `needed`
    )

    @property
    def anywhere(self) -> Tensor | None:
        """Old name of `needed_on_any_rank`, kept for users' own methods."""
        return self.needed_on_any_rank

    @property
    def part(self) -> BatchShard:
        """Which samples of the global batch these are."""
        return alone(len(self.labels)) if self.share is None else self.share

    def having(self, mask: Tensor) -> tuple[Tensor, BatchShard]:
        """(b,) positions of the samples that have every modality of `mask` (M,), on the device of the labels, and which
        of all such samples these are.
        """
        part = self.part
        if self.has is None:
            return torch.arange(part.own, device=self.labels.device), part
        available = available_in(mask[None], self.has)[0]
        positions = part.cut(available).nonzero().squeeze(1)
        before, total = (0, len(positions)) if self.share is None else (available[: part.before].sum(), available.sum())
        own = len(positions)
        found = BatchShard(part.ranks, int(before), own, int(total) - int(before) - own)
        return to_device(positions, self.labels.device), found

    def at(self, positions: Tensor) -> tuple[Mapping[str, Tensor], Tensor]:
        """Inputs and labels of the samples at `positions` (b,)."""
        if len(positions) == len(self.labels):
            return self.inputs, self.labels
        return {name: x.index_select(0, positions) for name, x in self.inputs.items()}, self.labels[positions]


Seen = MaskedBatch  # old name, kept for users' own methods


class StepLosses(NamedTuple):
    """What a step gives back: `total` is what is minimised; `terms` are its terms, unweighted, for the log."""

    total: Tensor  # ()
    task: Tensor  # (K, B), detached: the loss of each sample in each of its combinations
    combination: Tensor  # (K, B), which these are
    variance: Tensor | None  # (K, B), detached: predicted variance, mean over features
    terms: dict[str, Tensor]  # each (), detached

    @property
    def parts(self) -> dict[str, Tensor]:
        """Old name of `terms`, kept for users' own methods."""
        return self.terms


class CombinationSums(NamedTuple):
    """What an epoch adds up for each combination: the rows, by name, of the (3, C) float64 that `end_epoch` gets."""

    loss: Tensor  # (C,)
    variance: Tensor  # (C,), zero for a method that predicts none
    samples: Tensor  # (C,), how many losses were added


ONE_HOT_VALUES = 2**22  # at once, 32 MB


def sums_by_combination(values: Tensor, combination: Tensor, count: int) -> Tensor:
    """(R, C) float64: sums of finite values (R, K, B) over the samples of each of `count` combinations (K, B).

    A product with the one-hot of the combination adds in the same order each time; `index_add_` on a GPU does not.
    """
    step = max(1, ONE_HOT_VALUES // count)
    parts = torch.split(values.flatten(1), step, dim=1), torch.split(combination.flatten(), step)
    sums = values.new_zeros((len(values), count), dtype=torch.float64)
    for rows, index in zip(*parts, strict=True):
        sums += rows.double() @ sums.new_zeros((len(index), count)).scatter_(1, index[:, None], 1.0)
    return sums


def add_by_combination(sums: Tensor, losses: StepLosses) -> None:
    """Add a step's losses, variances and counts to `sums` (3, C), the rows of `CombinationSums`, in place."""
    variance = torch.zeros_like(losses.task) if losses.variance is None else losses.variance
    step = CombinationSums(losses.task, variance, torch.ones_like(losses.task))
    sums += sums_by_combination(torch.stack(step), losses.combination, sums.shape[1])


def largest(score: Tensor, seen: Tensor, combinations: Combinations, count: int | None) -> Tensor:
    """(C,) bool: the V = `count` combinations with the largest score (C,) among those `seen`, (C,) bool: the
    hard ones.

    The full one is never hard. None takes half of those that are not full.
    """
    candidates = len(combinations) - 1
    count = candidates // 2 if count is None else min(count, candidates)
    score = torch.where(seen, score.double(), -math.inf)
    score[combinations.full] = -math.inf
    hard = torch.zeros(len(combinations), dtype=torch.bool)
    hard[score.argsort(descending=True, stable=True)[:count]] = True
    return hard & score.isfinite()


class Prediction(NamedTuple):
    """Predictions for C combinations of B samples."""

    logits: Tensor  # (C, B, *P, L)
    variance: Tensor | None  # (C, B), mean over features
    embedding: Tensor | None  # (C, B, Z), mean over positions


class AnyNetwork(nn.Module):
    """What a method may use of a network inside it, such as `mmanet`'s teacher; see `dmr.networks.network.Network`.

    Attributes:
        combinations: (C, M) masks of all its combinations, on the CPU; the last is the full one.
        encoded: samples times encoders run in training.
    """

    combinations: Tensor
    encoded: int

    def losses(
        self,
        inputs: Mapping[str, Tensor],
        labels: Tensor,
        combination: Tensor,
        generator: torch.Generator,
        has: Tensor | None = None,
        part: BatchShard | None = None,
    ) -> StepLosses:
        """Losses of a training step on inputs (B, *shape) and labels (B, *P), each sample seen with the combinations
        (K, G), int64 on the CPU; `has` (G, M), bool on the CPU, where samples lack modalities; `part` says which of the
        G these B are, None all.
        """
        raise NotImplementedError

    def predict(self, inputs: Mapping[str, Tensor], masks: Tensor) -> Prediction:
        """Predictions of the combinations `masks` (C, M), in eval mode: each modality is encoded once."""
        raise NotImplementedError

    def full(self, count: int) -> Tensor:
        """(1, B) the index of the full combination, for `losses`."""
        return torch.full((1, count), len(self.combinations) - 1)


class TeacherTraining(NamedTuple):
    """A network that is trained to its end before the method's own first epoch, then used as it is."""

    network: AnyNetwork  # of all modalities; gets the weights
    method: MethodSettings  # that of `network`
    epochs: int | None  # of its own; None for as many as the method's


@dataclass(frozen=True)
class Components:
    """What a method is built from: equal for all methods on the same data and encoders.

    Attributes:
        widths: D of each modality.
        combinations: all non-empty combinations of the modalities.
        criterion: the task loss.
        num_classes: L.
        fusion: makes the fusion of the study file.
        trunk: makes the layers that all modalities share, for a given input width; the identity for most encoders.
        embedding_width: Z, of every method's embedding: the trunk's width, or Σ D.
        head: makes the task head on an embedding of a given width.
        network: makes another network, of a subset of the modalities and with a method of its own.
    """

    widths: tuple[int, ...]
    combinations: Combinations
    criterion: TaskLoss
    num_classes: int
    fusion: Callable[[], FusionModule]
    trunk: Callable[[int], Trunk]
    embedding_width: int
    head: Callable[[int], TaskHead]
    network: Callable[[Sequence[str], MethodSettings], AnyNetwork]


Parts = Components  # old name, kept for users' own methods


class Method(nn.Module):
    """Base of the methods: everything behind the encoders."""

    Settings: ClassVar[type[MethodSettings]]
    search_space: ClassVar[dict[str, Any]] = {}
    """The method's own default search space, in the notation of the study file."""
    own_encoders: ClassVar[bool] = False
    """True for a method that encodes for itself, from `MaskedBatch.inputs`; it then implements `predict_inputs`."""
    encodes_all: ClassVar[bool] = False
    """True for a method that is trained on every modality a sample has, also those absent from its combinations."""

    def __init__(self, settings: Any, parts: Components) -> None:
        super().__init__()
        self.settings = settings
        self.criterion = parts.criterion

    def losses(self, seen: MaskedBatch, generator: torch.Generator) -> StepLosses:
        """Losses of a training step; `generator` is on the device of the features.

        On several ranks they are means over the rank's samples; what is no such mean is made one by `seen.part`.
        """
        raise NotImplementedError

    def predict(self, features: Features, masks: Tensor) -> Prediction:
        """Deterministic predictions of every combination in `masks` (C, B, M)."""
        raise NotImplementedError

    def predict_inputs(self, inputs: Mapping[str, Tensor], masks: Tensor) -> Prediction:
        """The same for a method with its own encoders: `masks` (C, M)."""
        raise NotImplementedError

    def summed(self) -> Summed | None:
        """What gives the logits of `predict`, in eval mode, as sums over what is present; None where nothing does."""
        return None

    def drawn(self, probabilities: Tensor, combinations: Combinations) -> Tensor:
        """(C,) the probabilities with which combinations are drawn in training; by default those of `sampling`."""
        return probabilities

    def teacher_training(self) -> TeacherTraining | None:
        """What is trained before the first epoch, on the same data; None for a method that needs nothing."""
        return None

    def start_epoch(self, epoch: int, combinations: Combinations, generator: torch.Generator) -> None:
        """Called before each epoch, which counts from 0; `generator` is on the CPU."""

    def end_epoch(self, epoch: int, sums: Tensor) -> None:
        """Called after each epoch with (3, C) float64, which `CombinationSums(*sums)` gives by name."""

    def hard_combinations(self) -> Tensor | None:
        """(C,) bool, the combinations with extra weight now; None for a method that has none."""
        return None

    @staticmethod
    def warmup_of(settings: Any) -> int:
        """Epochs before the method's loss has its final form; a scheduler must wait for it."""
        return 0
