"""Methods or studies side by side: what is compared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import pandas as pd

from analysis.statistics import Floats
from dmr.combinations import Combinations


@dataclass(frozen=True)
class Entry:
    study: str
    method: str
    config: str
    trial: int
    label: str
    model: str
    seeds: tuple[int, ...]
    values: Floats
    run_ids: tuple[str, ...]


@dataclass(frozen=True)
class Comparison:
    studies: tuple[str, ...]
    metric: str
    mode: Literal["max", "min"]
    split: Literal["test", "val"]
    combinations: Combinations
    combinations_text: str
    reference: str
    entries: tuple[Entry, ...]
    summary: pd.DataFrame
    by_combination: pd.DataFrame
    deployment: dict[str, float] | None
    notes: tuple[str, ...]
