"""Encoders of one modality each: inputs (B, *shape) to features (B, D).

Letters: B samples, D features, F input features, C channels, H height, W width.
No encoder here depends on the other samples of the batch: a modality present in one sample only is no special case.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from dmr.data.dataset import Modality
from dmr.settings import setting


@dataclass(frozen=True)
class MLPSettings:
    """Two linear layers with layer normalisation, for vectors (F,)."""

    width: int = setting(64, ge=1)
    dropout: float = setting(0.0, ge=0.0, lt=1.0)


@dataclass(frozen=True)
class CNNSettings:
    """Three 3×3 convolutions with group normalisation and a global mean, for small images (C, H, W)."""

    width: int = setting(64, ge=8)
    dropout: float = setting(0.0, ge=0.0, lt=1.0)


class MLP(nn.Sequential):
    """(B, F) → (B, width)."""

    def __init__(self, shape: tuple[int, ...], width: int, dropout: float) -> None:
        super().__init__(
            nn.Flatten(),
            nn.Linear(int(torch.Size(shape).numel()), width),
            nn.LayerNorm(width),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(width, width),
            nn.LayerNorm(width),
            nn.ReLU(),
        )


class CNN(nn.Sequential):
    """(B, C, H, W) → (B, width); the second and third convolution halve H and W."""

    def __init__(self, shape: tuple[int, ...], width: int, dropout: float) -> None:
        narrow = max(8, width // 2)
        super().__init__(
            *_block(shape[0], narrow, stride=1),
            *_block(narrow, width, stride=2),
            *_block(width, width, stride=2),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Dropout(dropout),
        )


def _block(inputs: int, outputs: int, stride: int) -> tuple[nn.Module, ...]:
    groups = next(g for g in (8, 4, 2, 1) if outputs % g == 0)
    return (
        nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False),
        nn.GroupNorm(groups, outputs),
        nn.ReLU(),
    )


class Standardise(nn.Module):
    """(x − mean) / std with the training split's statistics, one a feature of a vector or a channel of an image."""

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("scale", 1.0 / std)
        self.mean: Tensor
        self.scale: Tensor

    def forward(self, x: Tensor) -> Tensor:
        return (x.to(self.mean.dtype) - self.mean) * self.scale


EncoderSettings = MLPSettings | CNNSettings
ENCODERS: dict[str, type[EncoderSettings]] = {"mlp": MLPSettings, "cnn": CNNSettings}
MODULES: dict[type[EncoderSettings], type[MLP] | type[CNN]] = {MLPSettings: MLP, CNNSettings: CNN}
DIMENSIONS = {"mlp": (1,), "cnn": (3,)}
DEFAULT_BY_KIND = {"vector": "mlp", "image": "cnn", "spectrogram": "cnn"}


def default_encoder(modality: Modality) -> EncoderSettings:
    """The encoder a modality gets when the study file names none.

    Raises:
        ValueError: the modality's kind has no encoder.
    """
    if modality.kind not in DEFAULT_BY_KIND:
        raise ValueError(f"modality {modality.name}: there is no encoder for kind {modality.kind!r} yet")
    return ENCODERS[DEFAULT_BY_KIND[modality.kind]]()


def check_encoder(modality: Modality, settings: EncoderSettings) -> None:
    """Raises:
    ValueError: the encoder cannot read inputs of the modality's shape.
    """
    name = next((name for name, kind in ENCODERS.items() if kind is type(settings)), None)
    if name is None:
        return
    if len(modality.shape) not in DIMENSIONS[name]:
        raise ValueError(
            f"encoder {name!r} reads inputs with {DIMENSIONS[name][0]} dimension(s); "
            f"modality {modality.name} has shape {list(modality.shape)}"
        )


def build_encoder(modality: Modality, settings: EncoderSettings, mean: Tensor, std: Tensor) -> nn.Sequential:
    """Standardisation and the encoder: (B, *shape) → (B, settings.width)."""
    check_encoder(modality, settings)
    return nn.Sequential(Standardise(mean, std), MODULES[type(settings)](modality.shape, **asdict(settings)))


def find_encoder(name: str) -> type[EncoderSettings]:
    """Raises:
    ValueError: there is none.
    """
    import importlib

    if name in ENCODERS:
        return ENCODERS[name]
    module, colon, attribute = name.partition(":")
    if not colon:
        raise ValueError(f"no encoder {name!r}; known are {', '.join(ENCODERS)}, or module:Class")
    try:
        found: type[EncoderSettings] = getattr(importlib.import_module(module), attribute)
    except Exception as error:
        raise ValueError(f"{name}: cannot be imported: {error}") from None
    return found
