"""What every encoder owes: settings that say what it reads, and a module from inputs to levels.

Letters: B samples, D features, C channels, C_l channels of level l, H height, W width.

The levels of an encoder are its outputs, finest first; the last one is the context, which is fused and handed to the
method. For classification it is the only one, features (B, D) or a map (B, D, H, W); for segmentation the levels before
it are the skips of the decoder, maps (B, C_l, H_l, W_l) each.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from dmr.data.dataset import Task


class Trunk(nn.Module):
    """Layers behind the fusion, shared by all modalities: fused maps (N, in_width, H, W) → (N, width, H', W').

    Attributes:
        width: channels of what comes out.
    """

    width: int


class EncoderModule(nn.Module):
    """Inputs (B, *shape) → levels. A subclass is made with `(shape, **settings)`, all settings but `weights`.

    Attributes:
        widths: channels of each level.
    """

    widths: tuple[int, ...]

    def trunk(self, in_width: int) -> Trunk | None:
        """A new trunk for fused maps of `in_width` channels, where this encoder has one."""
        return None


@dataclass(frozen=True, kw_only=True)
class EncoderSettings:
    """Settings of an encoder.

    Attributes:
        weights: a local file with a state dict to begin from (see `dmr.encoders.weights`).
        Module: what the settings are for; an `EncoderModule`.
        dimensions: of one input.
        task: what its levels are good for.
        weights_for: the submodule of `Module` that `weights` are for, "" for all of it.
        own: prefixes of parameters that `weights` may lack; they stay as they were initialised.
        ignored: prefixes of parameters in `weights` that are not read.
    """

    weights: str | None = None

    Module: ClassVar[Callable[..., EncoderModule]]
    dimensions: ClassVar[int]
    task: ClassVar[Task] = "classification"
    weights_for: ClassVar[str] = ""
    own: ClassVar[tuple[str, ...]] = ()
    ignored: ClassVar[tuple[str, ...]] = ("fc.",)


class Standardise(nn.Module):
    """(x − mean) / std in float32 with the training split's statistics, one per feature of a vector or channel of
    anything else.
    """

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("scale", 1.0 / std)
        self.mean: Tensor
        self.scale: Tensor

    def forward(self, x: Tensor) -> Tensor:
        return (x.to(self.mean.dtype) - self.mean) * self.scale


class Encoder(EncoderModule):
    """Standardised inputs to an encoder's module: raw inputs (B, *shape) → levels."""

    def __init__(self, mean: Tensor, std: Tensor, module: EncoderModule) -> None:
        super().__init__()
        self.standardise = Standardise(mean, std)
        self.module = module
        self.widths = module.widths

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        levels: tuple[Tensor, ...] = self.module(self.standardise(x))
        return levels

    def trunk(self, in_width: int) -> Trunk | None:
        return self.module.trunk(in_width)
