"""One training run in pure torch. It talks to the outside only through a Reporter: metrics out, checkpoints in and out.

Every generator is seeded from (seed, purpose, epoch), so a run that goes on from the checkpoint of an epoch continues
without the state of any generator: bit for bit on a CPU, and on a GPU but for the rounding of torch's convolutions and
enlarged maps, whose gradients it adds up in any order.

Letters: N training samples, G samples of a batch of all ranks, K combinations per sample, M modalities, C combinations,
U different sets of modalities that samples have.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from dmr.combinations import all_combinations, evaluated_combinations
from dmr.data.augmentation import Augmentation, centre_crop
from dmr.data.batches import Batch, Batches, batch_positions, class_chances
from dmr.data.dataset import MultimodalDataset
from dmr.distributed.ranks import ALONE, BatchShard, Ranks
from dmr.evaluation import SplitEvaluation
from dmr.methods.base import CombinationSums, StepLosses, add_by_combination
from dmr.networks.convolutions import sound_convolutions
from dmr.networks.network import Network
from dmr.runs.final_test import TestReport, test
from dmr.runs.handover import Handover
from dmr.runs.optimisation import OPTIMIZERS, Optimisation
from dmr.runs.run_settings import RunSettings, build_network
from dmr.sampling import Presence, combination_probabilities, draw_combinations
from dmr.seeds import derive_seed, generator
from dmr.settings import SamplingSettings

__all__ = [
    "OPTIMIZERS",
    "Diverged",
    "EpochReport",
    "Reporter",
    "RunSettings",
    "TestReport",
    "build_network",
    "fit",
    "test",
    "try_step",
]

DIAGNOSED = 255  # most combinations (of 8 modalities) whose loss and variance are kept by epoch


class Diverged(RuntimeError):
    """A loss, gradient or metric was not finite; no such step has reached the weights."""


@dataclass(frozen=True)
class EpochReport:
    """What is known after an epoch, in plain numbers.

    Attributes:
        epoch: counts from 0.
        metrics: losses and summaries of this epoch, `train/loss`, `val/accuracy_mean`, ...; the losses alone where it
            was not evaluated.
        best_epoch: the epoch the checkpoint was chosen at, so far; `best_metrics` are its metrics, and those that are
            not computed of every epoch: calibration error, macro F1 and the diagnostics.
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
        """Keep the state after an epoch; `is_best` if the checkpoint is chosen at this epoch, so far. Called by another
        thread, with a copy on the CPU: where it takes long the next epoch begins meanwhile.
        """

    def report(self, report: EpochReport) -> None:
        """Hand on an epoch, after it was saved. May not return where the run is stopped."""


def fit(dataset: MultimodalDataset, settings: RunSettings, device: torch.device, reporter: Reporter) -> EpochReport:
    """Train to the last epoch, evaluating every combination on `val` after each one, or `train.evaluate_every`.

    Every rank of the process group that this process is in, if any, has to call it alike, and all train one network
    (see `dmr.distributed.ranks`). Only the first loads and saves; `report` is called on each.

    Returns:
        The report of the last epoch.

    Raises:
        ValueError: the augmentation or class-balanced sampling does not fit the data set.
        Diverged: at the end of the epoch in which something was not finite.

    Example:
        >>> import torch
        >>> from dmr.data.digits import digits
        >>> from dmr.encoders import default_encoder
        >>> from dmr.methods.dmrnet import DMRNetSettings
        >>> from dmr.settings import SamplingSettings, TrainSettings
        >>> class Accuracies:
        ...     def load(self): return None
        ...     def save(self, state, is_best): self.network = state["network"]
        ...     def report(self, report): print(report.epoch, report.metrics["val/accuracy_mean"] > 0.1)
        >>> dataset = digits()
        >>> settings = RunSettings(
        ...     method=DMRNetSettings(),
        ...     encoders={modality.name: default_encoder(modality) for modality in dataset.modalities},
        ...     sampling=SamplingSettings(),
        ...     train=TrainSettings(epochs=2),
        ...     fusion="concat",
        ...     select="val/accuracy_mean",
        ...     select_mode="max",
        ...     deployment=None,
        ...     seed=0,
        ... )
        >>> report = fit(dataset, settings, torch.device("cpu"), Accuracies())
        0 True
        1 True
        >>> len(report.best_values["val"]["accuracy"])  # one per combination of the four quadrants
        15
    """
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices, device_type="cuda"), sound_convolutions(device):
        torch.manual_seed(derive_seed(settings.seed, "initialisation"))
        ranks = Ranks.here(device)
        run = Run(dataset, settings, device, ranks)
        report = run.restore(ranks.shared(reporter.load))
        if report is not None:
            reporter.report(report)
        else:
            run.train_teacher()
        with Handover(reporter.save, reporter.report) as handover:
            for epoch in range(0 if report is None else report.epoch + 1, settings.train.epochs):
                losses = run.train_epoch(epoch, handover.look)
                report = run.evaluate_epoch(epoch, losses, report)
                if ranks.first:
                    handover.give(report, run.state(report), report.best_epoch == epoch)
                else:
                    reporter.report(report)
                if ranks.count > 1:  # their reports wait for each other, and so do their steps
                    handover.finish()
    assert report is not None
    return report


def try_step(dataset: MultimodalDataset, settings: RunSettings, device: torch.device) -> float:
    """Take the first step of a run and forget it: whether these settings can be trained at all. Returns the loss.

    Raises:
        Diverged: the step was not finite.
        Exception: whatever `fit` would raise at its first step.
    """
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices, device_type="cuda"), sound_convolutions(device):
        torch.manual_seed(derive_seed(settings.seed, "initialisation"))
        run = Run(dataset, settings, device)
        streams = run.start_epoch(0)
        positions = next(batch_positions(len(run.train), settings.train.batch_size, streams.order, run.chances))
        shard = run.ranks.part(len(positions))
        losses = run.losses_of(run.train.take(positions), positions, run.probabilities(), streams, shard)
        if run.optimisation.step(losses.total).item():
            raise Diverged("the first step was not finite")
        return losses.total.item()


def losses_over(ranks: Ranks, network: Network) -> Callable[..., StepLosses]:
    """`network.losses` for these ranks; several ranks share batch normalisation and gradients from here on."""
    if ranks.count == 1:
        return network.losses
    from dmr.distributed.synchronised import distributed_losses, synchronise  # loads torch's compiler: seconds

    synchronise(network, ranks)
    return distributed_losses(network)


class Run:
    """The moving parts of a run: network, optimiser, and what was learned about the combinations."""

    def __init__(
        self, dataset: MultimodalDataset, settings: RunSettings, device: torch.device, ranks: Ranks = ALONE
    ) -> None:
        self.device = device
        self.ranks = ranks
        self.drawn = all_combinations(dataset.modality_names)
        self.evaluated = evaluated_combinations(dataset.modality_names)
        self.augmentation = Augmentation(dataset, settings.augment)
        self.chances = class_chances(dataset) if settings.train.class_balanced else None
        self.train = Batches(dataset.splits["train"], device)
        self.presence = Presence(self.train.split.has() if self.train.split.present is not None else None)
        self.dataset = dataset = centre_crop(dataset, settings.augment)
        self.val = Batches(dataset.splits["val"], device)
        self.begin(settings)

    def begin(self, settings: RunSettings) -> None:
        """With a new network, of which nothing is known."""
        self.settings = settings
        self.design = settings.design(self.dataset)
        self.network = build_network(self.dataset, settings).to(self.device)
        self.losses = losses_over(self.ranks, self.network)
        self.optimisation = Optimisation(self.network, settings.train, self.ranks)
        self.difficulty = torch.full((len(self.drawn),), math.nan, dtype=torch.float64)  # (C,) mean loss in training
        self.diagnosed: list[Tensor] = []  # per epoch (3, C): mean loss, mean variance, whether it was hard

    def train_teacher(self) -> None:
        """Train the method's teacher, where it has one, in a run of its own on the same batches; its encoder passes are
        counted in the first epoch.

        Raises:
            Diverged: something was not finite.
        """
        teaching = self.network.method.teacher_training()
        if teaching is None:
            return
        train = replace(self.settings.train, epochs=teaching.epochs or self.settings.train.epochs)
        sampling = SamplingSettings(combinations_per_sample=1)
        own = copy.copy(self)
        own.begin(replace(self.settings, method=teaching.method, sampling=sampling, train=train))
        try:
            passes = sum(own.train_epoch(epoch)["train/encoder_passes"] for epoch in range(train.epochs))
        except Diverged as error:
            raise Diverged(f"the teacher, {error}") from None
        teaching.network.load_state_dict(own.network.state_dict())
        if self.ranks.first:
            self.network.encoded += int(passes)

    def train_epoch(self, epoch: int, after_step: Callable[[], None] = lambda: None) -> dict[str, float]:
        """Train for one epoch on the batches of `batch_positions`; returns mean losses by name."""
        streams = self.start_epoch(epoch)
        probabilities = self.probabilities()
        batches = list(batch_positions(len(self.train), self.settings.train.batch_size, streams.order, self.chances))
        shards = [self.ranks.part(len(positions)) for positions in batches]
        own_batches = self.train.stream(shard.cut(positions) for shard, positions in zip(shards, batches, strict=True))
        sums = torch.zeros((3, len(self.drawn)), dtype=torch.float64, device=self.device)
        totals: dict[str, Tensor] = {}
        unusable = torch.zeros((), device=self.device)
        for step, (positions, shard, batch) in enumerate(zip(batches, shards, own_batches, strict=True)):
            losses = self.losses_of(batch, positions, probabilities, streams, shard)
            self.optimisation.set_learning_rate((epoch + step / len(batches)) / self.settings.train.epochs)
            unusable += self.optimisation.step(shard.weighed(losses.total))
            add_by_combination(sums, losses)
            for name, value in {"loss": losses.total.detach(), **losses.terms}.items():
                totals[name] = totals.get(name, 0.0) + shard.summed(value)
            after_step()
        if unusable.item():
            raise Diverged(f"epoch {epoch}: {int(unusable.item())} of {len(batches)} steps were not finite")
        return self.end_epoch(epoch, sums, totals, sum(map(len, batches)))

    def losses_of(
        self, batch: Batch, positions: Tensor, probabilities: Tensor, streams: EpochStreams, shard: BatchShard
    ) -> StepLosses:
        """Losses of this rank's part of a batch, the samples at `positions` (G,), augmented and with combinations drawn
        from `probabilities`.
        """
        combination = self.draw(probabilities, positions, streams.draws)
        augmented = self.augmentation(*batch, streams.augmentation, shard)
        return self.forward(augmented, combination, streams.noise, self.presence.has_at(positions), shard)

    def start_epoch(self, epoch: int) -> EpochStreams:
        """Seed what the layers draw, and let the method begin."""
        seed = self.settings.seed
        torch.manual_seed(self.ranks.derive_seed(seed, "dropout", epoch))
        self.network.train()
        self.network.method.start_epoch(epoch, self.drawn, generator("cpu", seed, "mining", epoch))
        return EpochStreams(
            order=generator("cpu", seed, "order", epoch),
            draws=generator("cpu", seed, "combinations", epoch),
            noise=generator(self.device, seed, "noise", epoch),
            augmentation=generator("cpu", seed, "augmentation", epoch),
        )

    def probabilities(self) -> Tensor:
        """(C,) how likely each combination is drawn; (U, C) where samples lack modalities."""
        probabilities = combination_probabilities(self.drawn, self.settings.sampling, self.difficulty)
        probabilities = self.network.method.drawn(probabilities, self.drawn)
        return self.presence.within(probabilities, self.drawn)

    def draw(self, probabilities: Tensor, positions: Tensor, draws: torch.Generator) -> Tensor:
        """(K, G) the combinations with which the samples at `positions` (G,) are seen."""
        shape = (self.settings.sampling.combinations_per_sample, len(positions))
        return draw_combinations(self.presence.rows_at(probabilities, positions), shape, draws)

    def forward(
        self,
        batch: Batch,
        combination: Tensor,
        noise: torch.Generator,
        has: Tensor | None = None,
        part: BatchShard | None = None,
    ) -> StepLosses:
        """Losses of the samples of a batch, each seen with the combinations (K, G); `has` (G, M) is what they have;
        `part` says which of the G samples of all ranks they are.
        """
        inputs, labels = batch
        with self.design.autocast(self.device):
            return self.losses(inputs, labels, combination, noise, has, part)

    def end_epoch(self, epoch: int, sums: Tensor, totals: dict[str, Tensor], samples: int) -> dict[str, float]:
        """Hand on what the epoch has shown; the means over its samples, of all ranks, by name."""
        sums = self.ranks.total(sums)
        self.network.method.end_epoch(epoch, sums)
        self.update_difficulty(CombinationSums(*sums.cpu()))
        means = {f"train/{name}": self.ranks.total(value).item() / samples for name, value in totals.items()}
        norms = self.optimisation.take_encoder_norms()
        means |= {f"train/gradient_norm_{name}": value for name, value in norms.items()}
        passes = self.ranks.total(torch.tensor(self.network.take_encoded(), dtype=torch.float64))
        return means | {"train/encoder_passes": passes.item()}

    def update_difficulty(self, sums: CombinationSums) -> None:
        """Keep what an epoch's sums say about the combinations."""
        seen = sums.samples > 0
        loss, variance = (
            torch.where(seen, s / sums.samples.clamp(min=1), math.nan) for s in (sums.loss, sums.variance)
        )
        self.difficulty = torch.where(seen, loss, self.difficulty)
        hard = self.network.method.hard_combinations()
        if hard is not None and len(self.drawn) <= DIAGNOSED:
            self.diagnosed.append(torch.stack([loss, variance, hard.cpu().double()]))

    def evaluate_epoch(self, epoch: int, losses: dict[str, float], before: EpochReport | None) -> EpochReport:
        """Evaluate on `val`, where this epoch is to be, and keep the better of it and the best one before; what is not
        read of every epoch is computed of the better one.
        """
        train, settings = self.settings.train, self.settings
        if before is not None and epoch % train.evaluate_every and epoch < train.epochs - 1:
            return replace(before, epoch=epoch, metrics=losses)
        with self.design.autocast(self.device):
            found = SplitEvaluation(self.network, self.dataset, self.val, self.evaluated, self.ranks)
        summaries = settings.summaries(found.values(settings.metrics_each_epoch), self.evaluated)
        metrics = losses | {f"val/{name}": value for name, value in summaries.items()}
        for name, value in metrics.items():
            if not math.isfinite(value):
                raise Diverged(f"epoch {epoch}: {name} is {value}")
        if before is not None and not settings.direction.better(
            metrics[settings.select], before.best_metrics[settings.select]
        ):
            return replace(before, epoch=epoch, metrics=metrics)
        with self.design.autocast(self.device):
            values, diagnostics = found.values(), found.diagnostics()
        everything = settings.summaries(values, self.evaluated) | diagnostics
        plain = {name: [float(v) for v in value] for name, value in values.items()}
        best = metrics | {f"val/{name}": value for name, value in everything.items()}
        return EpochReport(epoch, metrics, epoch, best, {"val": plain})

    def state(self, report: EpochReport) -> dict[str, Any]:
        """Everything the next epoch depends on."""
        return {
            "network": self.network.state_dict(),
            "optimizer": self.optimisation.state,
            "difficulty": self.difficulty,
            "diagnosed": self.diagnosed,
            "combinations": list(self.drawn.names) if self.diagnosed else [],
            "report": asdict(report),
        }

    def restore(self, state: dict[str, Any] | None) -> EpochReport | None:
        """Go on from a state; the report of its epoch, None where there is no state."""
        if state is None:
            return None
        self.network.load_state_dict(state["network"])
        self.optimisation.load_state_dict(state["optimizer"])
        self.difficulty = state["difficulty"].cpu()
        self.diagnosed = [rows.cpu() for rows in state["diagnosed"]]
        return EpochReport(**state["report"])


class EpochStreams(NamedTuple):
    """The generators of an epoch: a draw from one changes nothing in another."""

    order: torch.Generator
    draws: torch.Generator  # of combinations
    noise: torch.Generator  # of the method, on the device
    augmentation: torch.Generator
