"""What a network computes apart from its weights, so that a checkpoint can be used without the data it was trained on.

Letters: H, W height and width of the label maps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from dmr.data.augmentation import AugmentSettings, centre_crop
from dmr.data.dataset import Modality, MultimodalDataset
from dmr.encoders import EncoderSettings
from dmr.fusion import FusionKind
from dmr.methods import MethodSettings
from dmr.settings import Precision, TrainSettings


@dataclass(frozen=True)
class Design:
    """The encoders, the method and the fusion of a network, with the shapes of what it reads and answers.

    Attributes:
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

    def autocast(self, device: torch.device) -> torch.autocast:
        """The context of a forward pass, in training and in every evaluation."""
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
