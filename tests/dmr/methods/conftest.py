"""What the tests of the methods share: the parts a method is built from, samples as it sees them, whole networks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dmr.combinations import all_combinations
from dmr.data.dataset import Modality, MultimodalDataset, Split, Task
from dmr.encoders.mlp import MLPSettings
from dmr.encoders.pyramid import PyramidSettings
from dmr.fusion import FusionKind, build_fusion
from dmr.losses import TaskLoss
from dmr.methods import MethodSettings
from dmr.methods.base import Components, Features, MaskedBatch
from dmr.methods.heads import ClassificationHead, Trunk
from dmr.networks.network import Network
from dmr.settings import SamplingSettings, TrainSettings
from dmr.training import RunSettings, build_network

WIDTHS = (4, 3, 5)
CLASSES = 3


class Small(NamedTuple):
    """A network in training mode and samples for it."""

    network: Network
    inputs: dict[str, Tensor]
    labels: Tensor


def _no_network(names: Sequence[str], settings: MethodSettings) -> nn.Module:
    raise AssertionError("this method needs no network of its own")


@pytest.fixture(scope="session")
def make_parts() -> Callable[..., Components]:
    def make(widths: tuple[int, ...] = WIDTHS, fusion: FusionKind = "concat") -> Components:
        """Parts for classification, without encoders."""
        return Components(
            widths=widths,
            combinations=all_combinations([f"m{m}" for m in range(len(widths))]),
            criterion=TaskLoss(),
            num_classes=CLASSES,
            fusion=partial(build_fusion, widths, fusion),
            trunk=partial(Trunk, None),
            embedding_width=sum(widths),
            head=lambda width: ClassificationHead(width, CLASSES),
            network=_no_network,
        )

    return make


@pytest.fixture(scope="session")
def make_seen() -> Callable[..., MaskedBatch]:
    def make(
        combination: Tensor, widths: tuple[int, ...] = WIDTHS, positions: tuple[int, ...] = (), scale: float = 1.0
    ) -> MaskedBatch:
        """Random features of B samples seen with `combination` (K, B), as the encoders would hand them on."""
        masks = torch.from_numpy(all_combinations([f"m{m}" for m in range(len(widths))]).masks)[combination]
        count = combination.shape[1]
        contexts = [scale * torch.randn((count, *positions, width)) for width in widths]
        for m, context in enumerate(contexts):
            context[~masks.any(0)[:, m]] = 0.0
        return MaskedBatch(Features(contexts, []), masks, combination, torch.randint(0, CLASSES, (count,)), {})

    return make


@pytest.fixture(scope="session")
def make_network() -> Callable[..., Small]:
    def make(
        settings: MethodSettings,
        task: Task = "classification",
        *,
        modalities: int = 3,
        samples: int = 7,
        fusion: FusionKind = "concat",
    ) -> Small:
        """A small network; initialised and on samples that depend on nothing but the arguments."""
        draw = np.random.default_rng(0)
        segmentation = task == "segmentation"
        shape = (2, 8, 8) if segmentation else (5,)
        kinds = tuple(Modality(f"m{m}", "image" if segmentation else "vector", shape) for m in range(modalities))
        inputs = {kind.name: draw.standard_normal((samples, *shape)).astype(np.float32) for kind in kinds}
        labels = draw.integers(0, CLASSES, (samples, *(shape[1:] if segmentation else ())))
        dataset = MultimodalDataset("small", task, ("x", "y", "z"), kinds, {"train": Split(inputs, labels)})
        encoder = PyramidSettings(width=4) if segmentation else MLPSettings(width=4)
        run = RunSettings(
            method=settings,
            encoders={kind.name: encoder for kind in kinds},
            sampling=SamplingSettings(),
            train=TrainSettings(),
            fusion=fusion,
            select="val/accuracy_mean",
            select_mode="max",
            deployment=None,
            seed=0,
        )
        torch.manual_seed(1)
        network = build_network(dataset, run).train()
        return Small(network, {name: torch.from_numpy(x) for name, x in inputs.items()}, torch.from_numpy(labels))

    return make
