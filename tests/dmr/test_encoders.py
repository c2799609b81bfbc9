from __future__ import annotations

from typing import get_args

import pytest
import torch

from dmr.data.dataset import Kind, Modality
from dmr.encoders import (
    DIMENSIONS,
    ENCODERS,
    CNNSettings,
    EncoderSettings,
    MLPSettings,
    build_encoder,
    check_encoder,
    default_encoder,
)

INPUTS: dict[str, tuple[Kind, tuple[int, ...]]] = {"mlp": ("vector", (6,)), "cnn": ("image", (3, 9, 8))}


def encoder_of(settings: EncoderSettings, kind: Kind, shape: tuple[int, ...]) -> torch.nn.Sequential:
    return build_encoder(Modality("a", kind, shape), settings, torch.zeros(()), torch.ones(())).eval()


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("width", [8, 12, 64])
def test_features_have_the_width_that_was_asked_for(name: str, width: int) -> None:
    kind, shape = INPUTS[name]
    assert encoder_of(ENCODERS[name](width=width), kind, shape)(torch.randn(5, *shape)).shape == (5, width)


@pytest.mark.parametrize("name", ENCODERS)
def test_a_sample_does_not_see_the_others(name: str) -> None:
    kind, shape = INPUTS[name]
    encoder = encoder_of(ENCODERS[name](), kind, shape).train()
    x = torch.randn(7, *shape)
    alone = torch.cat([encoder(x[i : i + 1]) for i in range(7)])
    torch.testing.assert_close(encoder(x), alone, rtol=1e-5, atol=1e-6)
    assert encoder(x[:0]).shape == (0, 64)


@pytest.mark.parametrize("name", ENCODERS)
def test_dropout_is_on_in_training_only(name: str) -> None:
    kind, shape = INPUTS[name]
    encoder = encoder_of(ENCODERS[name](dropout=0.5), kind, shape)
    x = torch.randn(4, *shape)
    assert torch.equal(encoder(x), encoder(x))
    encoder.train()
    assert not torch.equal(encoder(x), encoder(x))


@pytest.mark.parametrize("dtype", [torch.float16, torch.uint8])
def test_stored_types_are_standardised_in_float32(dtype: torch.dtype) -> None:
    x = torch.arange(12).reshape(4, 3).to(dtype)
    mean, std = torch.tensor([4.5, 5.5, 6.5]), torch.tensor([2.0, 4.0, 1.0])
    standardise = build_encoder(Modality("a", "vector", (3,)), MLPSettings(), mean, std)[0]
    expected = (x.float() - mean) / std
    assert standardise(x).dtype == torch.float32
    torch.testing.assert_close(standardise(x), expected)


def test_defaults_fit_the_kind_they_are_for() -> None:
    assert default_encoder(Modality("a", "vector", (4,))) == MLPSettings()
    assert default_encoder(Modality("a", "image", (3, 8, 8))) == CNNSettings()
    assert default_encoder(Modality("a", "spectrogram", (1, 8, 8))) == CNNSettings()


@pytest.mark.parametrize("kind", sorted(set(get_args(Kind)) - {"vector", "image", "spectrogram"}))
def test_kinds_without_an_encoder_say_so(kind: Kind) -> None:
    with pytest.raises(ValueError, match=f"modality a: there is no encoder for kind '{kind}' yet"):
        default_encoder(Modality("a", kind, (4, 4)))


@pytest.mark.parametrize(
    ("settings", "shape", "message"),
    [
        (CNNSettings(), (5,), r"encoder 'cnn' reads inputs with 3 dimension\(s\); modality a has shape \[5\]"),
        (
            MLPSettings(),
            (3, 8, 8),
            r"encoder 'mlp' reads inputs with 1 dimension\(s\); modality a has shape \[3, 8, 8\]",
        ),
    ],
)
def test_an_encoder_that_cannot_read_the_shape(settings: EncoderSettings, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_encoder(Modality("a", "image", shape), settings)


def test_every_encoder_is_declared_and_tested() -> None:
    assert set(ENCODERS) == set(DIMENSIONS) == set(INPUTS)
