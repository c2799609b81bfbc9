"""Combinations of modalities: enumeration, order, names and masks. Everything that names a combination asks here.

Letters: M modalities, C combinations.
"""

from __future__ import annotations

import itertools
import math
import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

MODALITY_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
SEPARATOR = "-"
MAX_MODALITIES = 16
MAX_MODALITY_NAME = 100  # letters; a file is named after it, and parameters of its encoder in MLflow
MAX_FULL_NAME = 220  # letters of all modalities' name; MLflow takes 250 of `best/test/accuracy_complete/` and this
MAX_EVALUATED_IN_FULL = 8
EXTRA_EVALUATED = 64


@dataclass(frozen=True)
class Combinations:
    """An ordered set of non-empty combinations of `modalities`: by size, then in modality order.

    `members` holds, for each combination, the indices of its modalities.
    """

    modalities: tuple[str, ...]
    members: tuple[tuple[int, ...], ...]

    def __len__(self) -> int:
        return len(self.members)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """`rgb-depth` for the combination of the modalities rgb and depth."""
        return tuple(SEPARATOR.join(self.modalities[m] for m in member) for member in self.members)

    @cached_property
    def sizes(self) -> npt.NDArray[np.int64]:
        """(C,) number of modalities in each combination."""
        return np.array([len(member) for member in self.members], dtype=np.int64)

    @cached_property
    def masks(self) -> npt.NDArray[np.bool_]:
        """(C, M) True where the combination has the modality."""
        masks = np.zeros((len(self), len(self.modalities)), dtype=bool)
        for row, member in enumerate(self.members):
            masks[row, list(member)] = True
        return masks

    @cached_property
    def full(self) -> int:
        """Index of the combination of all modalities."""
        return self.members.index(tuple(range(len(self.modalities))))

    def index(self, name: str) -> int:
        """Index of a combination by name; its modalities may come in any order.

        Raises:
            ValueError: no such combination.
        """
        canonical = combination_name(self.modalities, name.split(SEPARATOR))
        if canonical not in self.names:
            raise ValueError(f"combination {name!r} is not among the {len(self)} evaluated ones")
        return self.names.index(canonical)

    @property
    def complete(self) -> bool:
        """True if every non-empty combination is here."""
        return len(self) == (1 << len(self.modalities)) - 1


def check_modalities(modalities: Sequence[str]) -> tuple[str, ...]:
    """The names as a tuple.

    Raises:
        ValueError: fewer than 2 or more than `MAX_MODALITIES`, a name that is not allowed, or one that comes twice.
    """
    names = tuple(modalities)
    if not 2 <= len(names) <= MAX_MODALITIES:
        raise ValueError(f"{len(names)} modalities given; allowed are 2 to {MAX_MODALITIES}")
    for name in names:
        if not MODALITY_NAME.fullmatch(name):
            raise ValueError(f"modality name {name!r} must match {MODALITY_NAME.pattern}")
    if len(set(names)) != len(names):
        raise ValueError(f"modality names must differ: {', '.join(names)}")
    return names


def check_name_lengths(modalities: Sequence[str]) -> None:
    """Raises:
    ValueError: a name is too long, or all of them together, for files and for what MLflow keeps of combinations.
    """
    for name in modalities:
        if len(name) > MAX_MODALITY_NAME:
            raise ValueError(f"modality name {name!r} has {len(name)} letters; allowed are {MAX_MODALITY_NAME}")
    letters, allowed = sum(map(len, modalities)), MAX_FULL_NAME - len(SEPARATOR) * (len(modalities) - 1)
    if letters > allowed:
        raise ValueError(
            f"the names of {len(modalities)} modalities have {letters} letters together; allowed are {allowed}, since "
            "MLflow keeps no value under a longer name: shorten them"
        )


def all_combinations(modalities: Sequence[str]) -> Combinations:
    """All 2^M − 1 non-empty combinations."""
    return enumerate_combinations(check_modalities(modalities))


def enumerate_combinations(names: Sequence[str]) -> Combinations:
    """The same, of any number of names that were checked before."""
    members = itertools.chain.from_iterable(
        itertools.combinations(range(len(names)), size) for size in range(1, len(names) + 1)
    )
    return Combinations(tuple(names), tuple(members))


def evaluated_combinations(modalities: Sequence[str], seed: int = 0) -> Combinations:
    """The combinations a model is evaluated on: all up to M = 8; beyond that the singles, the full one, those with one
    modality missing and `EXTRA_EVALUATED` others drawn with `seed`.
    """
    names = check_modalities(modalities)
    count = len(names)
    if count <= MAX_EVALUATED_IN_FULL:
        return all_combinations(names)
    everything = tuple(range(count))
    chosen = {everything}
    chosen.update((m,) for m in everything)
    chosen.update(tuple(m for m in everything if m != missing) for missing in everything)
    draw = random.Random(seed)
    wanted = len(chosen) + EXTRA_EVALUATED
    while len(chosen) < wanted:
        code = draw.randrange(1, 2**count)
        chosen.add(tuple(m for m in everything if code >> m & 1))
    return Combinations(names, tuple(sorted(chosen, key=lambda member: (len(member), member))))


def combination_name(modalities: Sequence[str], present: Iterable[str]) -> str:
    """Name of the combination of the `present` modalities, which may come in any order.

    Raises:
        ValueError: none present, or one that is not a modality.
    """
    wanted = set(present)
    unknown = wanted - set(modalities)
    if unknown or not wanted:
        raise ValueError(
            f"combination of {', '.join(sorted(wanted)) or 'nothing'}: the modalities are {', '.join(modalities)}"
        )
    return SEPARATOR.join(name for name in modalities if name in wanted)


def complete_metric(metric: str) -> str:
    """`accuracy_complete`: a metric of each combination on the samples that have all modalities, the only ones on which
    combinations can be compared where samples lack some.
    """
    return f"{metric}_complete"


def deployment_weights(combinations: Combinations, odds: dict[str, float]) -> npt.NDArray[np.float64]:
    """(C,) probability of meeting each combination when modality m works with probability `odds[m]` (1 where it is not
    named), independently of the others, given that at least one of `combinations` is met. Sums to 1.

    Raises:
        ValueError: an unknown modality, a probability outside [0, 1], or odds that rule every combination out.
    """
    unknown = set(odds) - set(combinations.modalities)
    if unknown:
        raise ValueError(f"{', '.join(sorted(unknown))}: the modalities are {', '.join(combinations.modalities)}")
    for name, value in odds.items():
        if not 0.0 <= value <= 1.0:
            raise ValueError(f"{name}: a probability between 0 and 1 is needed, got {value}")
    works = np.array([odds.get(name, 1.0) for name in combinations.modalities])
    weights: npt.NDArray[np.float64] = np.where(combinations.masks, works, 1.0 - works).prod(axis=1)
    total = math.fsum(weights)
    if total == 0.0:
        raise ValueError("these odds leave no combination possible")
    return weights / total
