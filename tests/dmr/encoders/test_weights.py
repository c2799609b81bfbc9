from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dmr.data.dataset import Kind, Modality
from dmr.encoders import EncoderSettings, build_encoder, check_encoder
from dmr.encoders.cnn import CNNSettings
from dmr.encoders.frames import FramesSettings
from dmr.encoders.mlp import MLP, MLPSettings
from dmr.encoders.resnet import ResNet18, ResNet18Settings
from dmr.encoders.resnet18_se import ResNet18SESettings
from dmr.encoders.resnet50 import ResNet50, ResNet50Settings

VECTOR = Modality("a", "vector", (4,))


def built(modality: Modality, settings: EncoderSettings) -> dict[str, Tensor]:
    return build_encoder(modality, settings, torch.zeros(()), torch.ones(())).module.state_dict()


@pytest.fixture
def saved(tmp_path: Path) -> Callable[[Any], str]:
    def save(content: Any) -> str:
        torch.save(content, tmp_path / "weights.pt")
        return str(tmp_path / "weights.pt")

    return save


@pytest.mark.parametrize("wrapper", [None, "state_dict", "network"])
def test_round_trip(saved: Callable[[Any], str], wrapper: str | None) -> None:
    state = MLP((4,), width=6, dropout=0.0).state_dict()
    file = saved(state if wrapper is None else {wrapper: state, "epoch": 3})
    settings = MLPSettings(width=6, weights=file)
    check_encoder(VECTOR, settings, "classification")
    again = built(VECTOR, settings)
    assert again.keys() == state.keys()
    assert all(torch.equal(again[name], state[name]) for name in state)


def checkpoint(network: torch.nn.Module, leave: str = "projection.") -> dict[str, Tensor]:
    """As torchvision's: with a classifier, and without counters as the older ones."""
    state = {n: t for n, t in network.state_dict().items() if not n.endswith("num_batches_tracked")}
    kept = {name: torch.randn_like(tensor) for name, tensor in state.items() if not name.startswith(leave)}
    return kept | {"fc.weight": torch.zeros(1000, 2), "fc.bias": torch.zeros(1000)}


@pytest.mark.parametrize(
    ("settings", "kind", "shape", "inside"),
    [
        (ResNet18Settings, "image", (3, 8, 8), ""),
        (ResNet18SESettings, "image", (3, 8, 8), ""),
        (lambda **keys: FramesSettings(frame="resnet18", **keys), "frames", (2, 3, 8, 8), "frame."),
    ],
)
def test_a_checkpoint_of_torchvisions_resnet18(
    saved: Callable[[Any], str],
    settings: Callable[..., EncoderSettings],
    kind: Kind,
    shape: tuple[int, ...],
    inside: str,
) -> None:
    state = checkpoint(ResNet18((3, 8, 8)))
    got = built(Modality("a", kind, shape), settings(weights=saved(state)))
    read = [name for name in state if inside + name in got]
    assert {"conv1.weight", "bn1.running_var", "layer2.1.bn2.bias"} < set(read)
    assert not any(name.startswith("fc.") for name in read)
    assert all(torch.equal(got[inside + name], state[name]) for name in read)


def test_a_checkpoint_of_torchvisions_resnet50(saved: Callable[[Any], str]) -> None:
    state = checkpoint(ResNet50((3, 8, 8)))
    modality, settings = Modality("a", "image", (3, 8, 8)), ResNet50Settings(weights=saved(state))
    check_encoder(modality, settings, "segmentation")
    got = built(modality, settings)
    assert torch.equal(got["layer4.2.conv3.weight"], state["layer4.2.conv3.weight"])
    assert got["projection.0.weight"].std() > 0


STATE = MLP((4,), width=6, dropout=0.0).state_dict()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {n: t for n, t in STATE.items() if n != "layers.5.bias"},
            "tensor layers.5.bias [6] is missing",
        ),
        (
            STATE | {"layers.9.weight": torch.zeros(2, 3)},
            "tensor layers.9.weight [2, 3] is unexpected; the encoder has none",
        ),
        (
            STATE | {"layers.1.weight": torch.zeros(6, 5)},
            "tensor layers.1.weight is [6, 5]; the encoder's is [6, 4]",
        ),
        (STATE | {"layers.1.bias": 3}, "tensor layers.1.bias is int; the encoder's is [6]"),
        ([torch.zeros(3)], "no state dict, a mapping from names to tensors"),
        ({1: torch.zeros(3)}, "no state dict, a mapping from names to tensors"),
        (Path("x"), "no file of tensors that torch.load(weights_only=True) reads"),
    ],
)
def test_weights_that_do_not_fit(saved: Callable[[Any], str], content: Any, message: str) -> None:
    file = saved(content)
    line = re.escape(f"modality a: weights {file}: {message}")
    with pytest.raises(ValueError, match=f"^{line}$"):
        check_encoder(VECTOR, MLPSettings(width=6, weights=file), "classification")
    with pytest.raises(ValueError, match=f"^{re.escape(f'weights {file}: {message}')}$"):
        built(VECTOR, MLPSettings(width=6, weights=file))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "No such file or directory"),
        (b"", "no file of tensors that torch.load(weights_only=True) reads"),
        (b"PK\x03\x04 and no more", "no file of tensors that torch.load(weights_only=True) reads"),
        (b"not a checkpoint", "no file of tensors that torch.load(weights_only=True) reads"),
    ],
)
def test_files_that_are_none(tmp_path: Path, content: bytes | None, message: str) -> None:
    file = tmp_path / "weights.pt"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ValueError, match=f"^modality a: weights {re.escape(f'{file}: {message}')}$"):
        check_encoder(VECTOR, MLPSettings(weights=str(file)), "classification")


def test_a_folder_is_no_file_of_weights(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"^modality a: weights {re.escape(str(tmp_path))}: Is a directory$"):
        check_encoder(VECTOR, MLPSettings(weights=str(tmp_path)), "classification")


def test_the_first_convolution_of_other_channels(saved: Callable[[Any], str]) -> None:
    file = saved(checkpoint(ResNet18((3, 8, 8))))
    message = re.escape(f"{file}: tensor conv1.weight is [64, 3, 7, 7]; the encoder's is [64, 1, 7, 7]")
    with pytest.raises(ValueError, match=message):
        check_encoder(Modality("a", "image", (1, 8, 8)), ResNet18Settings(weights=file), "classification")


def test_a_small_stem_cannot_begin_from_torchvisions(saved: Callable[[Any], str]) -> None:
    file = saved(checkpoint(ResNet18((3, 8, 8))))
    message = re.escape(f"{file}: tensor conv1.weight is [64, 3, 7, 7]; the encoder's is [64, 3, 3, 3]")
    with pytest.raises(ValueError, match=message):
        check_encoder(Modality("a", "image", (3, 8, 8)), ResNet18SESettings(stem="3x3", weights=file), "classification")


class Counted(MLP):
    """Counts how often it is made."""

    made = 0

    def __init__(self, shape: tuple[int, ...]) -> None:
        type(self).made += 1
        super().__init__(shape, width=6, dropout=0.0)


@dataclass(frozen=True)
class CountedSettings(EncoderSettings):
    Module = Counted
    dimensions = 1


def test_a_file_is_checked_once_for_each_version(saved: Callable[[Any], str]) -> None:
    settings = CountedSettings(weights=saved(STATE))
    state = torch.get_rng_state()
    for _ in range(3):
        check_encoder(VECTOR, settings, "classification")
    assert Counted.made == 1
    assert torch.equal(torch.get_rng_state(), state)
    saved({})
    os.utime(str(settings.weights), ns=(1, 1))
    with pytest.raises(ValueError, match=r"tensor layers\.1\.weight \[6, 4\] is missing$"):
        check_encoder(VECTOR, settings, "classification")


def test_the_shape_comes_before_the_weights() -> None:
    with pytest.raises(ValueError, match=r"^encoder 'cnn' reads inputs with 3 dimension\(s\)"):
        check_encoder(VECTOR, CNNSettings(weights="nowhere.pt"), "classification")
