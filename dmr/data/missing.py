"""Modalities taken away at given rates, so that what a model makes of incomplete data can be studied on complete data.

Letters: N samples of a split, M modalities.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from dmr.data.dataset import DataError, MultimodalDataset
from dmr.seeds import derive_seed

Rates = Mapping[Literal["train", "val", "test"], float | dict[str, float]]


def take_away(dataset: MultimodalDataset, rates: Rates, seed: int) -> MultimodalDataset:
    """The data set with modalities missing: in each split of `rates`, every modality of a sample with its rate (one for
    all, or by modality), independently. A sample that would lose all keeps one of those it had, at random.

    Raises:
        DataError: no such split or modality.
    """
    splits = dict(dataset.splits)
    for name, given in rates.items():
        if name not in splits:
            raise DataError(f"missing.{name}: the data set has no such split; it has {', '.join(splits)}")
        by_modality = given if isinstance(given, dict) else dict.fromkeys(dataset.modality_names, given)
        unknown = sorted(set(by_modality) - set(dataset.modality_names))
        if unknown:
            raise DataError(f"missing.{name}.{unknown[0]}: the modalities are {', '.join(dataset.modality_names)}")
        rate = np.array([by_modality.get(modality, 0.0) for modality in dataset.modality_names])
        split = splits[name]
        kept = drop(split.has(), rate, np.random.default_rng(derive_seed(seed, "missing", name)))
        present = np.ones((len(split.labels), len(rate)), dtype=bool)
        present[slice(None) if split.rows is None else split.rows] = kept
        splits[name] = replace(split, present=present)
    return replace(dataset, splits=splits)


def drop(has: npt.NDArray[np.bool_], rate: npt.NDArray[np.float64], draw: np.random.Generator) -> npt.NDArray[np.bool_]:
    """(N, M) what is left of `has` (N, M) where each modality is lost with its rate (M,), but never all of a sample."""
    chances = draw.random(has.shape)
    kept = has & (chances >= rate)
    order = np.where(has, draw.random(has.shape), -1.0)
    lost = ~kept.any(axis=1)
    kept[lost, order[lost].argmax(axis=1)] = True
    return kept
