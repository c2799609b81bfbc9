"""Data sets by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from dmr.data.arrays import arrays, data_folder
from dmr.data.dataset import MultimodalDataset
from dmr.data.digits import DigitsSettings, digits
from dmr.data.own import own_dataset
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
