"""The study file's keys, defaults and limits. Limits of the science's own keys come from the dataclasses in `dmr`;
they are declared once, there.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, create_model

from dmr.data import DATASETS
from dmr.data.augmentation import AugmentSettings
from dmr.direction import Direction
from dmr.encoders import find_encoder
from dmr.fusion import FusionKind
from dmr.methods import find_method
from dmr.settings import SamplingSettings, TrainSettings

SAMPLERS = ("tpe", "gp", "cmaes", "nsga2", "random", "grid")
RANDOM_START = {"tpe": 10, "gp": 10, "cmaes": 1, "nsga2": 50}  # trials of a block before a sampler has learnt anything
SAMPLING_SEARCH: dict[str, Any] = {
    "sampling.strategy": {"choice": ["uniform", "bernoulli", "by_size", "hardness"]},
    "sampling.keep_prob": {"uniform": [0.3, 0.9], "when": {"sampling.strategy": "bernoulli"}},
}


class Section(BaseModel):
    """A part of the study file: unknown keys and silent conversions are errors."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


def section_of(settings: type, **more: Any) -> type[Section]:
    """A section with the fields, defaults and limits of a settings dataclass of `dmr`, or of somebody's own.

    Raises:
        ValueError: it is no dataclass, or a field has no default.
    """
    if not dataclasses.is_dataclass(settings):
        raise ValueError(f"{settings.__name__} is no dataclass")
    hints = typing.get_type_hints(settings)
    without = [f.name for f in dataclasses.fields(settings) if f.default is dataclasses.MISSING]
    if without:
        raise ValueError(f"{settings.__name__}.{without[0]} has no default")
    fields: dict[str, Any] = {
        f.name: (hints[f.name], Field(default=f.default, **f.metadata)) for f in dataclasses.fields(settings)
    }
    return create_model(settings.__name__.replace("Settings", ""), __base__=Section, **(more | fields))


Name = Annotated[str, Field(min_length=1, max_length=100)]
TrainSection = section_of(TrainSettings)
SamplingSection = section_of(SamplingSettings)
AugmentSection = section_of(AugmentSettings)


@cache
def encoder_section(name: str) -> type[Section]:
    """The keys of an encoder, by its name or `module:Class`.

    Raises:
        ValueError: there is none, or its settings cannot be keys of a file.
    """
    return section_of(find_encoder(name), name=(Literal[name], name))


@cache
def model_section(method: str) -> type[Section]:
    """The keys of `model` with a method, by its name or `module:Class`.

    Raises:
        ValueError: there is none, or its settings cannot be keys of a file.
    """
    return section_of(
        find_method(method).Settings,
        method=(Literal[method], method),
        encoder=(Any, Field(default_factory=dict)),  # checked in validation.py
        fusion=(FusionKind, "concat"),
    )


DatasetSections = {name: section_of(source.Settings, name=(Literal[name], name)) for name, source in DATASETS.items()}


class OwnDatasetSection(Section, extra="allow"):
    """The keys of `dataset` with `module:function`: the function's parameters."""

    name: str


class ObjectiveSection(Section):
    metric: str | None = None
    mode: Literal["max", "min"] | None = None

    @property
    def direction(self) -> Direction:
        """Of an objective that was resolved: then it has a mode."""
        return Direction(str(self.mode))


class SchedulerSection(Section):
    name: Literal["none", "asha", "median"] = "asha"
    grace_epochs: int | None = Field(default=None, ge=1)
    reduction_factor: int = Field(default=3, ge=2)
    metric: str | None = None


class BudgetSection(Section):
    trials: int = Field(default=24, ge=1, le=1_000_000)
    minutes: float | None = Field(default=None, gt=0)


class ResourcesSection(Section):
    """`workers`: processes that train one trial together, or [least, most]; `cpus` and `gpus` are of each of them."""

    workers: Any = 1  # checked in validation.py
    cpus: float = Field(default=1, gt=0)
    gpus: float = Field(default=0, ge=0)
    concurrent: int | None = Field(default=None, ge=1)

    @property
    def least_and_most(self) -> tuple[int, int]:
        """Workers of a trial."""
        return tuple(self.workers) if isinstance(self.workers, list) else (self.workers, self.workers)

    @property
    def distributed(self) -> bool:
        return bool(self.workers != 1)


class CheckpointsSection(Section):
    keep: int | None = Field(default=5, ge=1)


class ConfirmSection(Section):
    top: int = Field(default=3, ge=1)
    seeds: int = Field(default=10, ge=1)
    redraw: bool = False
    defaults: bool = True


class TrackingSection(Section):
    report: bool = True
    system_metrics: bool = False


MissingRate = Annotated[float, Field(ge=0, le=1)]


class StudyFile(Section):
    """All keys of a study file; those of `dataset` and `model` depend on the data set and the method."""

    name: Name
    experiment: Name | None = None
    seed: int = Field(default=0, ge=0, lt=2**63)
    dataset: Any
    model: Any = None
    sampling: SamplingSection = SamplingSection()  # type: ignore[valid-type]
    train: TrainSection = TrainSection()  # type: ignore[valid-type]
    augment: AugmentSection = AugmentSection()  # type: ignore[valid-type]
    search: Any = None  # checked in validation.py
    first: list[Any] = ["defaults"]
    objective: list[ObjectiveSection] = Field(default=[ObjectiveSection()], min_length=1)
    deployment: dict[str, Annotated[float, Field(ge=0, le=1)]] | None = None
    missing: dict[Literal["train", "val", "test"], MissingRate | dict[str, MissingRate]] | None = None
    sampler: Literal["tpe", "gp", "cmaes", "nsga2", "random", "grid"] = "tpe"
    scheduler: SchedulerSection = SchedulerSection()
    budget: BudgetSection = BudgetSection()
    resources: ResourcesSection = ResourcesSection()
    retries: int = Field(default=2, ge=0, le=100)
    checkpoints: CheckpointsSection = CheckpointsSection()
    confirm: ConfirmSection | None = None
    tracking: TrackingSection = TrackingSection()


def encoder_entries(document: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """The `{name, width, ...}` mappings in `model.encoder`, each with the dotted prefix of its keys."""
    if document and all(isinstance(value, dict) for value in document.values()):
        return [(f"model.encoder.{modality}.", entry) for modality, entry in document.items()]
    return [("model.encoder.", dict(document))]
