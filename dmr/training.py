"""One training run in pure torch. It talks to the outside only through a Reporter: metrics out, checkpoints in and out.

Every generator is seeded from (seed, purpose, epoch), so a run that goes on from the checkpoint of an epoch continues
bit for bit without the state of any generator.

Letters: N training samples, B samples of a batch, G those of all ranks where several train one network, K combinations
a sample, M modalities, C combinations.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dmr.augmentation import OFF, Augmentation, AugmentSettings, centre_crop
from dmr.combinations import all_combinations, deployment_weights, evaluated_combinations
from dmr.data.batches import Batch, Batches
from dmr.data.dataset import MultimodalDataset, input_statistics
from dmr.design import Design, design_of
from dmr.encoders import EncoderSettings
from dmr.evaluation import evaluate
from dmr.fusion import FusionKind
from dmr.losses import TaskLoss, class_weights
from dmr.methods import MethodSettings
from dmr.methods.base import StepLosses
from dmr.metrics import summarise
from dmr.networks import Blueprint, Network
from dmr.ranks import ALONE, Part, Ranks
from dmr.sampling import combination_probabilities, draw_combinations, within
from dmr.seeds import derive_seed, generator
from dmr.settings import SamplingSettings, TrainSettings
from dmr.synchronised import distributed_losses, synchronise

OPTIMIZERS = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam, "sgd": torch.optim.SGD}
DIAGNOSED = 255


class Diverged(RuntimeError):
    """A loss, gradient or metric was not finite; no such step has reached the weights."""


@dataclass(frozen=True)
class RunSettings:
    """All that decides a training run beside its data. `select` is the metric the checkpoint is chosen by."""

    method: MethodSettings
    encoders: Mapping[str, EncoderSettings]
    sampling: SamplingSettings
    train: TrainSettings
    fusion: FusionKind
    select: str
    select_mode: str
    deployment: Mapping[str, float] | None
    seed: int
    augment: AugmentSettings = OFF

    def design(self, dataset: MultimodalDataset) -> Design:
        """Of the network that is trained with these settings on a data set, or was."""
        return design_of(dataset, self.method, self.encoders, self.fusion, self.train, self.augment)


@dataclass(frozen=True)
class EpochReport:
    """What is known after an epoch, in plain numbers.

    Attributes:
        epoch: counts from 0.
        metrics: losses and summaries of this epoch, `train/loss`, `val/accuracy_mean`, ...
        best_epoch: the epoch the checkpoint was chosen at, so far; `best_metrics` are its metrics.
        best_values: its metric values (C,) by split and metric, in the order of the evaluated combinations.
    """

    epoch: int
    metrics: dict[str, float]
    best_epoch: int
    best_metrics: dict[str, float]
    best_values: dict[str, dict[str, list[float]]]


class Reporter(Protocol):
    """The only door of a training run to the outside."""

    def load(self) -> dict[str, Any] | None:
        """The state saved after the last finished epoch, None to start at the beginning."""

    def save(self, state: dict[str, Any], is_best: bool) -> None:
        """Keep the state after an epoch; `is_best` if the checkpoint is chosen at this epoch, so far."""

    def report(self, report: EpochReport) -> None:
        """Hand on an epoch, after it was saved. May not return where the run is stopped."""


def fit(dataset: MultimodalDataset, settings: RunSettings, device: torch.device, reporter: Reporter) -> EpochReport:
    """Train to the last epoch, evaluating every combination on `val` after each one.

    Every rank of the process group that this process is in, if any, has to call it alike, and all train one network
    (see `dmr.ranks`). Only the first loads and saves; `report` is called on each.

    Returns:
        The report of the last epoch.

    Raises:
        ValueError: the augmentation or class-balanced sampling does not fit the data set.
        Diverged: at the end of the epoch in which something was not finite.
    """
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices, device_type="cuda"):
        torch.manual_seed(derive_seed(settings.seed, "initialisation"))
        ranks = Ranks.here(device)
        run = _Run(dataset, settings, device, ranks)
        report = run.restore(ranks.shared(reporter.load))
        if report is not None:
            reporter.report(report)
        for epoch in range(0 if report is None else report.epoch + 1, settings.train.epochs):
            losses = run.train_epoch(epoch)
            report = run.judge(epoch, losses, report)
            if ranks.rank == 0:
                reporter.save(run.state(report), report.best_epoch == epoch)
            reporter.report(report)
    assert report is not None
    return report


class _Run:
    """The moving parts of a run: network, optimiser, and what was learned about the combinations."""

    def __init__(
        self, dataset: MultimodalDataset, settings: RunSettings, device: torch.device, ranks: Ranks = ALONE
    ) -> None:
        self.settings = settings
        self.device = device
        self.ranks = ranks
        self.drawn = all_combinations(dataset.modality_names)
        self.evaluated = evaluated_combinations(dataset.modality_names)
        odds = settings.deployment
        self.weights = deployment_weights(self.evaluated, dict(odds)) if odds else None
        self.augmentation = Augmentation(dataset, settings.augment)
        self.chances = class_chances(dataset) if settings.train.class_balanced else None
        self.train = Batches(dataset.splits["train"], device)
        self.dataset = dataset = centre_crop(dataset, settings.augment)
        self.network = build_network(dataset, settings).to(device)
        self.losses = self.network.losses
        if ranks.count > 1:
            synchronise(self.network, ranks)
            self.losses = distributed_losses(self.network)
        self.optimizer = make_optimizer(self.network, settings.train)
        self.val = Batches(dataset.splits["val"], device)
        self.difficulty = torch.full((len(self.drawn),), math.nan, dtype=torch.float64)
        self.diagnosed: list[Tensor] = []
        self.has: Tensor | None = None  # (N, M)
        self.patterns: npt.NDArray[np.bool_] | None = None  # (U, M): the different sets of modalities samples have
        if dataset.splits["train"].present is not None:
            self.has = torch.from_numpy(dataset.splits["train"].has())
            self.patterns, which = np.unique(self.has.numpy(), axis=0, return_inverse=True)
            self.pattern_of = torch.from_numpy(which.reshape(-1))

    def train_epoch(self, epoch: int) -> dict[str, float]:
        """Train on every sample once; mean losses by name."""
        seed, sampling = self.settings.seed, self.settings.sampling
        order = generator("cpu", seed, "order", epoch)
        draws = generator("cpu", seed, "combinations", epoch)
        noise = generator(self.device, seed, "noise", epoch)
        augmentation = generator("cpu", seed, "augmentation", epoch)
        torch.manual_seed(derive_seed(seed, "dropout", epoch, *([self.ranks.rank] if self.ranks.rank else [])))
        self.network.train()
        self.network.method.start_epoch(epoch, self.drawn, generator("cpu", seed, "mining", epoch))
        probabilities = combination_probabilities(self.drawn, sampling, self.difficulty)
        probabilities = self.network.method.drawn(probabilities, self.drawn)
        sums = torch.zeros((3, len(self.drawn)), dtype=torch.float64, device=self.device)
        totals: dict[str, Tensor] = {}
        unusable = torch.zeros((), device=self.device)
        if self.patterns is not None:
            probabilities = within(probabilities, self.drawn, self.patterns)
        batches = list(batch_positions(len(self.train), self.settings.train.batch_size, order, self.chances))
        parts = [self.ranks.part(len(positions)) for positions in batches]
        own_batches = self.train.stream(part.cut(positions) for part, positions in zip(parts, batches, strict=True))
        for step, (positions, part, batch) in enumerate(zip(batches, parts, own_batches, strict=True)):
            own = probabilities if self.patterns is None else probabilities[self.pattern_of[positions]]
            combination = draw_combinations(own, (sampling.combinations_per_sample, len(positions)), draws)
            has = None if self.has is None else self.has[positions]
            losses = self.forward(self.augmentation(*batch, augmentation, part), combination, noise, has, part)
            self.set_learning_rate((epoch + step / len(batches)) / self.settings.train.epochs)
            unusable += self.update(part.weighed(losses.total))
            add_by_combination(sums, losses)
            for name, value in {"loss": losses.total.detach(), **losses.parts}.items():
                totals[name] = totals.get(name, 0.0) + (value * part.own if part.own else torch.zeros_like(value))
        if unusable.item():
            raise Diverged(f"epoch {epoch}: {int(unusable.item())} of {len(batches)} steps were not finite")
        sums = self.ranks.total(sums)
        self.network.method.end_epoch(epoch, sums)
        self.learn(sums.cpu())
        samples = sum(len(positions) for positions in batches)
        means = {f"train/{name}": self.ranks.total(value).item() / samples for name, value in totals.items()}
        passes = self.ranks.total(torch.tensor(encoder_passes(self.network), dtype=torch.float64))
        return means | {"train/encoder_passes": passes.item()}

    def learn(self, sums: Tensor) -> None:
        """Keep what an epoch's sums (3, C) of loss, variance and count say about the combinations."""
        seen = sums[2] > 0
        means = torch.where(seen, sums / sums[2].clamp(min=1), math.nan)
        self.difficulty = torch.where(seen, means[0], self.difficulty)
        hard = self.network.method.hard_combinations()
        if hard is not None and len(self.drawn) <= DIAGNOSED:
            self.diagnosed.append(torch.stack([means[0], means[1], hard.cpu().double()]))

    def forward(
        self,
        batch: Batch,
        combination: Tensor,
        noise: torch.Generator,
        has: Tensor | None = None,
        part: Part | None = None,
    ) -> StepLosses:
        """Losses of the samples of a batch, each seen with the combinations (K, G); `has` (G, M) is what they have;
        `part` says which of the G samples of all ranks they are.
        """
        inputs, labels = batch
        with autocast(self.settings, self.device):
            return self.losses(inputs, labels, combination, noise, has, part)

    def update(self, loss: Tensor) -> Tensor:
        """Backward, clip, step; returns 1.0 where the step was not finite and, on the device, was left out."""
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        gradients = [p.grad for p in self.network.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        if self.settings.train.clip_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(self.network.parameters(), self.settings.train.clip_norm, norm)
        unusable = self.ranks.largest(1.0 - (loss.detach().isfinite() & norm.isfinite()).float())
        self.optimizer.found_inf = unusable  # fused optimisers skip the step on the device where this is 1
        self.optimizer.step()
        return unusable

    def set_learning_rate(self, progress: float) -> None:
        """`progress` in [0, 1) of the whole run."""
        train = self.settings.train
        factor = {
            "constant": 1.0,
            "linear": 1.0 - progress,
            "cosine": 0.5 * (1.0 + math.cos(math.pi * progress)),
        }[train.schedule]
        for group in self.optimizer.param_groups:
            group["lr"] = train.learning_rate * factor

    def judge(self, epoch: int, losses: dict[str, float], before: EpochReport | None) -> EpochReport:
        """Evaluate on `val` and keep the better of this epoch and the best one before."""
        with autocast(self.settings, self.device):
            values, _, diagnostics = evaluate(self.network, self.dataset, self.val, self.evaluated, self.ranks)
        judged = summarise(values, self.evaluated, self.weights) | diagnostics
        metrics = losses | {f"val/{name}": value for name, value in judged.items()}
        for name, value in metrics.items():
            if not math.isfinite(value):
                raise Diverged(f"epoch {epoch}: {name} is {value}")
        current = metrics[self.settings.select]
        if before is not None:
            best = before.best_metrics[self.settings.select]
            if not (current > best if self.settings.select_mode == "max" else current < best):
                return EpochReport(epoch, metrics, before.best_epoch, before.best_metrics, before.best_values)
        plain = {name: [float(v) for v in value] for name, value in values.items()}
        return EpochReport(epoch, metrics, epoch, metrics, {"val": plain})

    def state(self, report: EpochReport) -> dict[str, Any]:
        """Everything the next epoch depends on."""
        return {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "difficulty": self.difficulty,
            "diagnosed": self.diagnosed,
            "combinations": list(self.drawn.names) if self.diagnosed else [],
            "report": asdict(report),
        }

    def restore(self, state: dict[str, Any] | None) -> EpochReport | None:
        if state is None:
            return None
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.difficulty = state["difficulty"].cpu()
        self.diagnosed = [rows.cpu() for rows in state["diagnosed"]]
        return EpochReport(**state["report"])


class TestReport(NamedTuple):
    """What the test split says of a finished run.

    Attributes:
        metrics: `test/accuracy_mean`, ...
        values: (C,) by metric, in the order of the evaluated combinations.
        scores: (C, N) of each test sample, higher is better (see `dmr.evaluation.Evaluation`).
    """

    metrics: dict[str, float]
    values: dict[str, list[float]]
    scores: npt.NDArray[np.float32]


def test(
    dataset: MultimodalDataset, settings: RunSettings, device: torch.device, network_state: Mapping[str, Any]
) -> TestReport:
    """Evaluate the chosen checkpoint's network on `test`. Nothing else reads that split.

    Raises:
        KeyError: the data set has no test split.
    """
    network = settings.design(dataset).restored(network_state).to(device)
    dataset = centre_crop(dataset, settings.augment)
    combinations = evaluated_combinations(dataset.modality_names)
    weights = deployment_weights(combinations, dict(settings.deployment)) if settings.deployment else None
    with autocast(settings, device):
        found = evaluate(network, dataset, Batches(dataset.splits["test"], device), combinations)
    judged = summarise(found.values, combinations, weights) | found.diagnostics
    return TestReport(
        {f"test/{name}": value for name, value in judged.items()},
        {name: [float(v) for v in value] for name, value in found.values.items()},
        found.scores,
    )


def autocast(settings: RunSettings, device: torch.device) -> torch.autocast:
    """The context of a forward pass, in training and in every evaluation."""
    return torch.autocast(device.type, torch.bfloat16, settings.train.precision == "bfloat16")


def build_network(dataset: MultimodalDataset, settings: RunSettings) -> Network:
    """The network for a data set, on the CPU, initialised from torch's global generator."""
    train = dataset.splits["train"]
    labels = train.each_target() if dataset.task == "segmentation" else train.targets()
    weights = class_weights(labels, dataset.num_classes, settings.train.class_weights, dataset.ignore_index)
    blueprint = Blueprint(
        encoders=settings.encoders,
        statistics=input_statistics(dataset),
        fusion=settings.fusion,
        num_classes=dataset.num_classes,
        size=train.labels.shape[1:] if dataset.task == "segmentation" else None,
        criterion=TaskLoss(weights, dataset.ignore_index),
        channels_last=settings.train.channels_last,
        compile=settings.train.compile,
    )
    return Network(dataset.modalities, settings.method, blueprint)


def make_optimizer(network: Network, settings: TrainSettings) -> Any:
    """The optimiser, whose step is left out on the device where its `found_inf` is 1."""
    kind, parameters = OPTIMIZERS[settings.optimizer], list(network.parameters())
    own = {"momentum": 0.9} if settings.optimizer == "sgd" else {}
    made = kind(parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True, **own)
    if own:  # torch's fused step fails where a parameter has its first gradient later than others
        for parameter in parameters:
            made.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return made


def encoder_passes(network: Network) -> int:
    """Samples times encoders run in training since the last call, of all networks in this one."""
    networks = [module for module in network.modules() if isinstance(module, Network)]
    total = sum(inner.encoded for inner in networks)
    for inner in networks:
        inner.encoded = 0
    return total


def class_chances(dataset: MultimodalDataset) -> Tensor:
    """(N,) float64, the chance of each training sample to be drawn, equal in sum for every class that has samples.

    Raises:
        ValueError: the task has no class a sample.
    """
    if dataset.task != "classification":
        raise ValueError(f"train.class_balanced: a sample of {dataset.task} has no single class")
    labels = dataset.splits["train"].targets()
    chances = 1.0 / np.bincount(labels)[labels]
    return torch.from_numpy(chances / chances.sum())


def batch_positions(count: int, size: int, order: torch.Generator, chances: Tensor | None = None) -> Iterator[Tensor]:
    """Positions 0..count−1 in random order, or as many drawn with these `chances` (count,), in batches of `size`; a
    single sample left over is left out, since batch normalisation has no statistics of one sample.
    """
    drawn = torch.randperm(count, generator=order) if chances is None else draw_combinations(chances, (count,), order)
    for positions in torch.split(drawn, size):
        if len(positions) > 1:
            yield positions


def add_by_combination(sums: Tensor, losses: StepLosses) -> None:
    """Add a step's losses, variances and counts to `sums` (3, C), in place; a method without variances adds 0."""
    flat = losses.combination.flatten()
    variance = losses.task.new_zeros(()) if losses.variance is None else losses.variance
    for total, row in zip(sums, (losses.task, variance, losses.task.new_ones(())), strict=True):
        total.index_add_(0, flat, row.expand(losses.combination.shape).flatten().double())
