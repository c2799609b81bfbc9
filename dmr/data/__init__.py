"""Data sets by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from dmr.data.arrays import arrays, data_folder
from dmr.data.dataset import MultimodalDataset
from dmr.data.digits import DigitsSettings, digits
from dmr.data.missing import Rates, take_away
from dmr.data.own import own_dataset, takes_seed
from dmr.data.planted import PlantedSettings, planted
from dmr.data.scenes import ScenesSettings, scenes


@dataclass(frozen=True)
class ArraysSettings:
    """The folder, or the URL of object storage that it lies below; there is no default."""

    path: str = ""


class Source(NamedTuple):
    """The settings a data set takes, and what opens it given these and a study's seed."""

    Settings: type
    open: Callable[[Any, int], MultimodalDataset]


DATASETS: dict[str, Source] = {
    "digits": Source(DigitsSettings, lambda settings, seed: digits(settings)),
    "planted": Source(PlantedSettings, lambda settings, seed: planted(settings)),
    "scenes": Source(ScenesSettings, lambda settings, seed: scenes(settings)),
    "arrays": Source(ArraysSettings, lambda settings, seed: arrays(data_folder(settings.path), seed)),
}


@dataclass(frozen=True)
class DataRecipe:
    """How a study's data come about, so that any process can draw them again with another seed.

    Attributes:
        name, options: as `open_dataset` takes them.
        missing: as `take_away` takes it.
        seed: the study's.
    """

    name: str
    options: Mapping[str, Any]
    missing: Rates
    seed: int

    def draw(self, seed: int) -> MultimodalDataset:
        """The data with this seed in place of the study's: the split, noise and samples of a set that has a `seed`, a
        val that is drawn from train, what a function of somebody's own makes of its `seed`, and what is missing.

        Raises:
            DataError: as `open_dataset` and `take_away`.
        """
        given = self.options.get("seed")
        own = {"seed": given + seed - self.seed} if isinstance(given, int) else {}
        return take_away(open_dataset(self.name, {**self.options, **own}, seed), self.missing, seed)

    def draws(self, dataset: MultimodalDataset) -> bool:
        """Whether the seed makes a difference to `dataset`, which it has made."""
        seeded = takes_seed(self.name) if ":" in self.name else "seed" in self.options
        return seeded or bool(self.missing) or any(split.rows is not None for split in dataset.splits.values())


def open_dataset(name: str, options: Mapping[str, Any], seed: int) -> MultimodalDataset:
    """The data set `name` of `DATASETS`, or of a function `module:function`, with these options; `seed` is for what a
    data set leaves open, such as a split that a folder lacks.

    Raises:
        DataError: the folder or the function cannot be used.
    """
    if ":" in name:
        return own_dataset(name, options, seed)
    source = DATASETS[name]
    return source.open(source.Settings(**options), seed)
