"""Which way a metric is better: declared with each metric in `dmr.metrics`, asked by search, tables and figures."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum


class Direction(StrEnum):
    """`max` where higher is better, `min` where lower is. A string, so that it is written and read as one."""

    MAX = "max"
    MIN = "min"

    @property
    def sign(self) -> float:
        """1.0 or -1.0: a value times this is better the higher it is."""
        return 1.0 if self is Direction.MAX else -1.0

    def better(self, value: float, than: float) -> bool:
        """Whether `value` is strictly better."""
        return value > than if self is Direction.MAX else value < than

    def best(self, values: Iterable[float]) -> float:
        return max(values) if self is Direction.MAX else min(values)

    def worst(self, values: Iterable[float]) -> float:
        return min(values) if self is Direction.MAX else max(values)
