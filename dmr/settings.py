"""Settings a user can turn, declared once with their limits; the study file validates against these declarations."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

Strategy = Literal["uniform", "bernoulli", "by_size", "full_biased", "hardness"]
Optimizer = Literal["adamw", "adam", "sgd"]
Schedule = Literal["constant", "cosine", "linear"]
Precision = Literal["float32", "bfloat16"]
ClassWeights = Literal["none", "inverse", "median"]


def setting(default: Any, **limits: float) -> Any:
    """A dataclass field with limits among `gt`, `ge`, `lt`, `le`."""
    return field(default=default, metadata=limits)


@dataclass(frozen=True)
class SamplingSettings:
    """Which combination each training sample is seen with (see `dmr.sampling`)."""

    strategy: Strategy = "uniform"
    combinations_per_sample: int = setting(4, ge=1, le=64)
    keep_prob: float = setting(0.5, gt=0.0, le=1.0)
    full_prob: float = setting(0.5, ge=0.0, le=1.0)
    temperature: float = setting(1.0, gt=0.0)
    floor: float = setting(0.1, gt=0.0, le=1.0)


@dataclass(frozen=True)
class TrainSettings:
    """The optimisation of one training run. `schedule` is over all steps; linear and cosine end at 0.

    `precision: bfloat16` is autocast of the forward pass; `compile` is torch.compile of the encoders.
    `class_balanced` draws as many samples per epoch as there are, with replacement, every class as often as any other.
    `evaluate_every`: val is evaluated after the first epoch, every n-th after it, and the last one.
    `epoch_minutes` is for whoever runs fit() in a process of its own: an epoch that takes longer ends that process.
    """

    epochs: int = setting(40, ge=1)
    evaluate_every: int = setting(1, ge=1)
    batch_size: int = setting(64, ge=2)
    optimizer: Optimizer = "adamw"
    learning_rate: float = setting(2e-3, gt=0.0)
    weight_decay: float = setting(1e-2, ge=0.0)
    schedule: Schedule = "cosine"
    clip_norm: float | None = setting(None, gt=0.0)
    class_weights: ClassWeights = "none"
    class_balanced: bool = False
    precision: Precision = "float32"
    channels_last: bool = False
    compile: bool = False
    epoch_minutes: float | None = setting(None, gt=0.0)
