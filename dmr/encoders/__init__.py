"""Encoders of one modality each, by name: inputs (B, *shape) to levels (see `dmr.encoders.base`).

A new one is a file beside this one and a line in `ENCODERS`; a user's own is named `module:Class`, after its settings.
"""

from __future__ import annotations

from dataclasses import fields, replace
from functools import lru_cache

import torch
from torch import Tensor

from dmr.data.dataset import Modality, Task
from dmr.encoders.base import Encoder, EncoderModule, EncoderSettings, Trunk
from dmr.encoders.cnn import CNNSettings
from dmr.encoders.frames import FramesSettings
from dmr.encoders.mlp import MLPSettings
from dmr.encoders.pyramid import PyramidSettings
from dmr.encoders.resnet import ResNet18Settings, ResNet34Settings
from dmr.encoders.resnet18_se import ResNet18SESettings
from dmr.encoders.resnet50 import ResNet50Settings
from dmr.encoders.resnet_small import SmallResNetSettings
from dmr.encoders.sequence import SequenceSettings
from dmr.encoders.weights import load_weights
from dmr.files import user_path
from dmr.named import import_class

__all__ = [
    "ENCODERS",
    "Encoder",
    "EncoderModule",
    "EncoderSettings",
    "Trunk",
    "build_encoder",
    "check_encoder",
    "default_encoder",
    "encoder_name",
    "find_encoder",
]

ENCODERS: dict[str, type[EncoderSettings]] = {
    "mlp": MLPSettings,
    "cnn": CNNSettings,
    "sequence": SequenceSettings,
    "resnet_small": SmallResNetSettings,
    "resnet18": ResNet18Settings,
    "resnet34": ResNet34Settings,
    "resnet18_se": ResNet18SESettings,
    "frames": FramesSettings,
    "pyramid": PyramidSettings,
    "resnet50": ResNet50Settings,
}
DEFAULTS: dict[Task, dict[str, str]] = {
    "classification": {
        "vector": "mlp",
        "sequence": "sequence",
        "image": "cnn",
        "spectrogram": "cnn",
        "frames": "frames",
    },
    "segmentation": {"image": "pyramid", "spectrogram": "pyramid"},
}


def find_encoder(name: str) -> type[EncoderSettings]:
    """The settings of an encoder: a name in `ENCODERS`, or `module:Class` of a user's own `EncoderSettings`.

    Raises:
        ValueError: there is no such encoder.
    """
    if name in ENCODERS:
        return ENCODERS[name]
    if ":" not in name:
        raise ValueError(f"got {name!r}; allowed are {', '.join(ENCODERS)}, or module:Class")
    found = import_class(name, EncoderSettings)
    for needed in ("Module", "dimensions"):
        if not hasattr(found, needed):
            raise ValueError(f"got {name!r}: the class has no `{needed}`")
    return found


def encoder_name(settings: EncoderSettings) -> str:
    """The name under which `find_encoder` has these settings."""
    own = type(settings)
    return next((name for name, known in ENCODERS.items() if known is own), f"{own.__module__}:{own.__qualname__}")


def default_encoder(modality: Modality, task: Task = "classification") -> EncoderSettings:
    """The encoder a modality gets when the study file names none.

    Raises:
        ValueError: the modality's kind has no encoder for the task.
    """
    defaults = DEFAULTS[task]
    if modality.kind not in defaults:
        raise ValueError(
            f"modality {modality.name}: there is no encoder for kind {modality.kind!r} in {task}; "
            f"allowed are {', '.join(defaults)}"
        )
    return ENCODERS[defaults[modality.kind]]()


def check_encoder(modality: Modality, settings: EncoderSettings, task: Task) -> None:
    """Check that an encoder fits a modality, the task and its weights.

    Raises:
        ValueError: the encoder cannot read inputs of the modality's shape, is for another task, or cannot begin from
            the weights it is given.
    """
    name, shape = encoder_name(settings), modality.shape
    if len(shape) != settings.dimensions:
        raise ValueError(
            f"encoder {name!r} reads inputs with {settings.dimensions} dimension(s); "
            f"modality {modality.name} has shape {list(shape)}"
        )
    if settings.task != task:
        allowed = ", ".join(known for known, kind in ENCODERS.items() if kind.task == task)
        raise ValueError(f"encoder {name!r} is for {settings.task}, the data set for {task}; allowed are {allowed}")
    if settings.weights is not None:
        file = user_path(settings.weights)
        stat = file.stat() if file.exists() else None
        try:
            _try_weights(shape, settings, (stat.st_mtime_ns, stat.st_size) if stat else None)
        except ValueError as error:
            raise ValueError(f"modality {modality.name}: {error}") from None


@lru_cache(maxsize=64)
def _try_weights(shape: tuple[int, ...], settings: EncoderSettings, version: tuple[int, int] | None) -> None:
    """Load the weights once for each version of their file: a study is checked more often than it changes."""
    with torch.random.fork_rng([]):
        _module(shape, settings)


def build_encoder(modality: Modality, settings: EncoderSettings, mean: Tensor, std: Tensor) -> Encoder:
    """Standardisation and the encoder: (B, *shape) → levels, of the channels `widths`.

    Raises:
        ValueError: the encoder cannot read the modality or begin from its weights.
    """
    check_encoder(modality, replace(settings, weights=None), settings.task)
    return Encoder(mean, std, _module(modality.shape, settings))


def _module(shape: tuple[int, ...], settings: EncoderSettings) -> EncoderModule:
    own = {field.name: getattr(settings, field.name) for field in fields(settings) if field.name != "weights"}
    module = settings.Module(shape, **own)
    if settings.weights is not None:
        load_weights(module.get_submodule(settings.weights_for), settings.weights, settings.own, settings.ignored)
    return module
