from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn

from dmr.data.dataset import KINDS, Kind, Modality, Task
from dmr.encoders import (
    ENCODERS,
    EncoderModule,
    EncoderSettings,
    build_encoder,
    check_encoder,
    default_encoder,
    encoder_name,
    find_encoder,
)
from dmr.encoders.cnn import CNNSettings
from dmr.encoders.frames import FramesSettings
from dmr.encoders.mlp import MLPSettings
from dmr.encoders.pyramid import PyramidSettings
from dmr.encoders.sequence import SequenceSettings


class Doubling(EncoderModule):
    """(B, F) → (B, factor F)."""

    def __init__(self, shape: tuple[int, ...], factor: int) -> None:
        super().__init__()
        self.widths = (factor * shape[0],)
        self.linear = nn.Linear(shape[0], factor * shape[0])

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return (self.linear(x),)


@dataclass(frozen=True)
class DoublingSettings(EncoderSettings):
    factor: int = 2

    Module = Doubling
    dimensions = 1


@dataclass(frozen=True)
class Unfinished(EncoderSettings):
    dimensions = 1


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    (tmp_path / "half_written.py").write_text("def")
    monkeypatch.syspath_prepend(tmp_path)
    module = ModuleType("my_encoders")
    for found in (DoublingSettings, Unfinished, Doubling):
        monkeypatch.setattr(found, "__module__", "my_encoders")
        setattr(module, found.__name__, found)
    monkeypatch.setitem(sys.modules, "my_encoders", module)
    return "my_encoders"


@pytest.mark.parametrize("name", ENCODERS)
def test_names_lead_to_settings_and_back(name: str) -> None:
    assert find_encoder(name) is ENCODERS[name]
    assert encoder_name(ENCODERS[name]()) == name


def test_an_encoder_of_ones_own(own: str) -> None:
    settings = find_encoder(f"{own}:DoublingSettings")(factor=3)
    assert encoder_name(settings) == f"{own}:DoublingSettings"
    modality = Modality("a", "vector", (4,))
    check_encoder(modality, settings, "classification")
    encoder = build_encoder(modality, settings, torch.zeros(4), torch.ones(4))
    assert encoder.widths == (12,)
    assert encoder(torch.randn(5, 4))[0].shape == (5, 12)
    assert encoder.trunk(12) is None


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet", r"^got 'resnet'; allowed are mlp, cnn, .*, or module:Class$"),
        (":Class", r"^got ':Class':  cannot be imported: ValueError: Empty module name$"),
        (
            "no_such_module:A",
            r"^got 'no_such_module:A': no_such_module cannot be imported: ModuleNotFoundError: No .*$",
        ),
        ("half_written:A", r"^got 'half_written:A': half_written cannot be imported: SyntaxError: .*$"),
        ("my_encoders:B", r"^got 'my_encoders:B': my_encoders has no EncoderSettings 'B'$"),
        ("my_encoders:Doubling", r"^got 'my_encoders:Doubling': my_encoders has no EncoderSettings 'Doubling'$"),
        ("my_encoders:Unfinished", r"^got 'my_encoders:Unfinished': the class has no `Module`$"),
    ],
)
@pytest.mark.usefixtures("own")
def test_encoders_that_are_not_there(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        find_encoder(name)


DEFAULTS: dict[Kind, tuple[tuple[int, ...], EncoderSettings]] = {
    "vector": ((4,), MLPSettings()),
    "sequence": ((2, 9), SequenceSettings()),
    "image": ((3, 8, 8), CNNSettings()),
    "spectrogram": ((1, 8, 8), CNNSettings()),
    "frames": ((4, 3, 8, 8), FramesSettings()),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_a_default_that_reads_it(kind: Kind) -> None:
    shape, expected = DEFAULTS[kind]
    modality = Modality("a", kind, shape)
    assert default_encoder(modality) == expected
    check_encoder(modality, expected, "classification")


@pytest.mark.parametrize("kind", ["image", "spectrogram"])
def test_defaults_for_segmentation(kind: Kind) -> None:
    modality = Modality("a", kind, (3, 8, 8))
    assert default_encoder(modality, "segmentation") == PyramidSettings()
    check_encoder(modality, PyramidSettings(), "segmentation")


@pytest.mark.parametrize("kind", sorted(set(get_args(Kind)) - {"image", "spectrogram"}))
def test_kinds_without_an_encoder_for_segmentation(kind: Kind) -> None:
    message = f"modality a: there is no encoder for kind '{kind}' in segmentation; allowed are image, spectrogram"
    with pytest.raises(ValueError, match=message):
        default_encoder(Modality("a", kind, (4,)), "segmentation")


@pytest.mark.parametrize(
    ("settings", "shape", "task", "message"),
    [
        (
            CNNSettings(),
            (5,),
            "classification",
            r"^encoder 'cnn' reads inputs with 3 dimension\(s\); modality a has shape \[5\]$",
        ),
        (
            MLPSettings(),
            (3, 8, 8),
            "classification",
            r"^encoder 'mlp' reads inputs with 1 dimension\(s\); modality a has shape \[3, 8, 8\]$",
        ),
        (
            CNNSettings(),
            (3, 8, 8),
            "segmentation",
            "^encoder 'cnn' is for classification, the data set for segmentation; allowed are pyramid, resnet50$",
        ),
        (
            PyramidSettings(),
            (3, 8, 8),
            "classification",
            "^encoder 'pyramid' is for segmentation, the data set for classification; allowed are mlp, .*, frames$",
        ),
    ],
)
def test_an_encoder_that_does_not_fit(
    settings: EncoderSettings, shape: tuple[int, ...], task: Task, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        check_encoder(Modality("a", "image", shape), settings, task)


@pytest.mark.parametrize("dtype", [torch.float16, torch.uint8])
def test_stored_types_are_standardised_in_float32(dtype: torch.dtype) -> None:
    x = torch.arange(12).reshape(4, 3).to(dtype)
    mean, std = torch.tensor([4.5, 5.5, 6.5]), torch.tensor([2.0, 4.0, 1.0])
    encoder = build_encoder(Modality("a", "vector", (3,)), MLPSettings(), mean, std)
    expected: Any = (x.float() - mean) / std
    assert encoder.standardise(x).dtype == torch.float32
    torch.testing.assert_close(encoder.standardise(x), expected)
    torch.testing.assert_close(encoder(x), encoder.module(expected))
