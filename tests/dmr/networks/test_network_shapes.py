"""Encoders whose outputs cannot be fused are refused before anything is trained."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dmr.data.dataset import Modality, MultimodalDataset, Split, Task
from dmr.encoders import EncoderSettings
from dmr.encoders.mlp import MLPSettings
from dmr.encoders.pyramid import PyramidSettings
from dmr.encoders.resnet18_se import ResNet18SESettings
from dmr.encoders.resnet50 import ResNet50Settings
from dmr.methods.dropout import DropoutSettings
from dmr.networks.network import Network
from dmr.settings import SamplingSettings, TrainSettings
from dmr.training import RunSettings, build_network


def build(task: Task, *sensors: tuple[tuple[int, ...], EncoderSettings]) -> Network:
    kinds = tuple(
        Modality(name, "vector" if len(shape) == 1 else "image", shape)
        for name, (shape, _) in zip(("rgb", "depth"), sensors, strict=True)
    )
    labels = np.zeros((2, *(kinds[0].shape[1:] if task == "segmentation" else ())), dtype=np.int64)
    inputs = {kind.name: np.random.default_rng(0).random((2, *kind.shape)).astype(np.float32) for kind in kinds}
    dataset = MultimodalDataset("small", task, ("x", "y"), kinds, {"train": Split(inputs, labels)})
    encoders = {kind.name: settings for kind, (_, settings) in zip(kinds, sensors, strict=True)}
    run = RunSettings(
        DropoutSettings(), encoders, SamplingSettings(), TrainSettings(), "concat", "val/accuracy_mean", "max", None, 0
    )
    return build_network(dataset, run)


@pytest.mark.parametrize(
    ("task", "first", "second", "message"),
    [
        (
            "classification",
            ((3, 32, 32), ResNet18SESettings()),
            ((1, 64, 64), ResNet18SESettings()),
            r"modality depth: its encoder gives 8×8; that of rgb gives 4×4; equal sizes are needed to fuse them",
        ),
        (
            "classification",
            ((3, 32, 32), ResNet18SESettings()),
            ((5,), MLPSettings()),
            r"modality depth: its encoder gives a vector; that of rgb gives 4×4; equal sizes",
        ),
        (
            "segmentation",
            ((3, 16, 16), PyramidSettings(width=4)),
            ((1, 8, 8), PyramidSettings(width=4)),
            r"modality depth: its encoder gives 8×8, 4×4, 2×2; that of rgb gives 16×16, 8×8, 4×4; equal sizes",
        ),
        (
            "segmentation",
            ((3, 32, 32), PyramidSettings(width=4)),
            ((1, 32, 32), ResNet50Settings()),
            r"modality depth: its encoder gives 16×16, 8×8, 4×4, 2×2, 1×1; that of rgb gives 32×32, 16×16, 8×8; equal",
        ),
    ],
)
def test_sizes_that_differ_are_refused(
    task: Task,
    first: tuple[tuple[int, ...], EncoderSettings],
    second: tuple[tuple[int, ...], EncoderSettings],
    message: str,
) -> None:
    with pytest.raises(ValueError, match=message):
        build(task, first, second)


def test_widths_may_differ() -> None:
    network = build("segmentation", ((3, 8, 8), PyramidSettings(width=4)), ((1, 8, 8), PyramidSettings(width=8)))
    inputs = {"rgb": torch.randn(2, 3, 8, 8), "depth": torch.randn(2, 1, 8, 8)}
    assert network.eval().predict(inputs, network.combinations).logits.shape == (3, 2, 8, 8, 2)
