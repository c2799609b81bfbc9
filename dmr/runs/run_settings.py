"""The settings of one training run, and the network they describe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dmr.combinations import Combinations, deployment_weights
from dmr.data.augmentation import OFF, AugmentSettings
from dmr.data.dataset import MultimodalDataset, input_statistics
from dmr.direction import Direction
from dmr.encoders import EncoderSettings
from dmr.fusion import FusionKind
from dmr.losses import TaskLoss, class_weights
from dmr.methods import MethodSettings
from dmr.metrics import METRICS, Values, summarise
from dmr.networks.design import Design, design_of
from dmr.networks.network import Network
from dmr.settings import SamplingSettings, TrainSettings


@dataclass(frozen=True)
class RunSettings:
    """All that decides a training run beside its data.

    Attributes:
        select: the metric by which the checkpoint is chosen.
        select_mode: `max` or `min`, which way that metric is better (see `dmr.direction`).
        watched: further metrics that somebody reads of every epoch that is evaluated.
        deployment: how often each combination is met in use, by name; None where nobody has said.
    """

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
    watched: tuple[str, ...] = ()

    @property
    def direction(self) -> Direction:
        return Direction(self.select_mode)

    @property
    def metrics_each_epoch(self) -> set[str]:
        """The metrics that are computed of every epoch that is evaluated: the cheap ones, and what is read."""
        read = (self.select, *self.watched)
        return {
            name
            for name, metric in METRICS.items()
            if metric.each_epoch or any(one.startswith(f"val/{name}_") for one in read)
        }

    def design(self, dataset: MultimodalDataset) -> Design:
        """The design of the network that is trained with these settings on a data set, or was."""
        return design_of(dataset, self.method, self.encoders, self.fusion, self.train, self.augment)

    def summaries(self, values: Values, combinations: Combinations) -> dict[str, float]:
        """The summaries of every metric over the combinations, weighted by `deployment` where it is given."""
        odds = self.deployment
        return summarise(values, combinations, deployment_weights(combinations, dict(odds)) if odds else None)


def build_network(dataset: MultimodalDataset, settings: RunSettings) -> Network:
    """The network for a data set, on the CPU, initialised from torch's global generator."""
    train = dataset.splits["train"]
    labels = train.each_target() if dataset.task == "segmentation" else train.targets()
    weights = class_weights(labels, dataset.num_classes, settings.train.class_weights, dataset.ignore_index)
    criterion = TaskLoss(weights, dataset.ignore_index)
    return Network(settings.design(dataset), input_statistics(dataset), criterion)
