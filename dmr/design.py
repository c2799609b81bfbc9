"""What a network computes apart from its weights, so that a checkpoint can be used without the data it was trained on.

Letters: H, W height and width of the label maps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from dmr.augmentation import AugmentSettings, centre_crop
from dmr.data.dataset import InputStatistics, Modality, MultimodalDataset
from dmr.encoders import EncoderSettings
from dmr.fusion import FusionKind
from dmr.losses import TaskLoss
from dmr.methods import MethodSettings
from dmr.networks import Blueprint, Network
from dmr.settings import Precision, TrainSettings


@dataclass(frozen=True)
class Design:
    """Attributes:
    modalities: as the network sees them: cropped, where training crops.
    size: (H, W) of the label maps, None in classification.
    """

    modalities: tuple[Modality, ...]
    method: MethodSettings
    encoders: Mapping[str, EncoderSettings]
    fusion: FusionKind
    num_classes: int
    size: tuple[int, int] | None
    precision: Precision = "float32"
    channels_last: bool = False
    compile: bool = False

    def restored(self, state: Mapping[str, Any]) -> Network:
        """The network with the weights of a checkpoint, on the CPU, in eval mode.

        Raises:
            RuntimeError: these are weights of another network.
        """
        blueprint = Blueprint(
            encoders={name: replace(encoder, weights=None) for name, encoder in self.encoders.items()},
            statistics={modality.name: _statistics_of(modality) for modality in self.modalities},
            fusion=self.fusion,
            num_classes=self.num_classes,
            size=self.size,
            criterion=TaskLoss(),
            channels_last=self.channels_last,
            compile=self.compile,
        )
        with torch.random.fork_rng([], device_type="cuda"):
            network = Network(self.modalities, self.method, blueprint)
        network.load_state_dict(state)
        return network.eval()

    def autocast(self, device: torch.device) -> torch.autocast:
        """The context of a forward pass, as in training."""
        return torch.autocast(device.type, torch.bfloat16, self.precision == "bfloat16")


def design_of(
    dataset: MultimodalDataset,
    method: MethodSettings,
    encoders: Mapping[str, EncoderSettings],
    fusion: FusionKind,
    train: TrainSettings,
    augment: AugmentSettings,
) -> Design:
    """The design of the networks that are trained on a data set with these settings."""
    seen = centre_crop(dataset, augment)
    height, width = next(iter(seen.splits.values())).labels.shape[1:] if seen.task == "segmentation" else (0, 0)
    size = (height, width) if seen.task == "segmentation" else None
    return Design(
        seen.modalities,
        method,
        encoders,
        fusion,
        seen.num_classes,
        size,
        train.precision,
        train.channels_last,
        train.compile,
    )


def _statistics_of(modality: Modality) -> InputStatistics:
    """In the shape of a modality's statistics; the values are among the weights."""
    channel = 1 if modality.kind == "frames" else 0
    broadcast = tuple(n if axis == channel else 1 for axis, n in enumerate(modality.shape))
    shape = modality.shape if modality.kind == "vector" else broadcast
    return InputStatistics(torch.zeros(shape), torch.ones(shape))
