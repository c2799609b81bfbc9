"""Modalities taken away at given rates, so that what a model makes of incomplete data can be studied on complete data.

Also what of incomplete data makes combinations incomparable: how many samples have all modalities, and which modalities
are missing more often in some classes.

Letters: N samples of a split, M modalities, L classes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from dmr.data.dataset import DataError, MultimodalDataset
from dmr.seeds import derive_seed

TIED = 4.0  # standard deviations: p = 3e-5, so that no modality of many is named by chance
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


def complete_samples(dataset: MultimodalDataset) -> dict[str, int]:
    """How many samples have all modalities, by split; only of splits in which some lack one."""
    complete = {name: split.has().all(axis=1) for name, split in dataset.splits.items()}
    return {name: int(whole.sum()) for name, whole in complete.items() if not whole.all()}


def tied_to_class(dataset: MultimodalDataset) -> tuple[str, ...]:
    """The modalities whose absence says something of a sample's class, in any split: that they are there is then a hint
    which has nothing to do with what they measure, and what a combination gains by them is no worth of theirs. A
    chi-square test of presence by class, with p below 3e-5; none of label maps, whose samples have no single class.
    """
    if dataset.task != "classification":
        return ()
    found: set[str] = set()
    for split in dataset.splits.values():
        has, labels = split.has(), split.targets()
        for m, name in enumerate(dataset.modality_names):
            counts = np.stack(
                [np.bincount(labels[has[:, m] == there], minlength=dataset.num_classes) for there in (0, 1)]
            )
            if counts.sum(axis=1).all() and _dependence(counts[:, counts.any(axis=0)]) > TIED:
                found.add(name)
    return tuple(name for name in dataset.modality_names if name in found)


def _dependence(counts: npt.NDArray[np.int64]) -> float:
    """How many standard deviations the chi-square statistic of counts (2, L) lies above what chance gives, by the
    approximation of Wilson and Hilferty, "The distribution of chi-square", 1931; −inf of one class.
    """
    freedom = counts.shape[1] - 1
    if freedom == 0:
        return -math.inf
    expected = counts.sum(1, keepdims=True) * counts.sum(0, keepdims=True) / counts.sum()
    spread = 2.0 / (9.0 * freedom)
    statistic = float((np.square(counts - expected) / expected).sum())
    return float(np.cbrt(statistic / freedom) - 1.0 + spread) / math.sqrt(spread)
