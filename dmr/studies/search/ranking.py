"""Which trials are the best: of the study, of each block, of a Pareto front."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from dmr.studies.study_file.plan import StudyPlan


class Ranked(NamedTuple):
    """A trial that succeeded; of its `values`, one per objective, more is better."""

    number: int
    values: tuple[float, ...]


def ranked(plan: StudyPlan, number: int, values: Sequence[float]) -> Ranked:
    signed = (o.direction.sign * v for o, v in zip(plan.study.objective, values, strict=True))
    return Ranked(number, tuple(signed))


def best_first(trials: Iterable[Ranked]) -> list[Ranked]:
    """By the first objective; of equal ones the earlier first."""
    return sorted(trials, key=lambda trial: (-trial.values[0], trial.number))


def front(trials: Sequence[Ranked]) -> list[Ranked]:
    """The Pareto front: those that no other one beats in one objective without losing in another."""
    from dmr.analysis.statistics import pareto_front

    if not trials:
        return []
    on_front = pareto_front([trial.values for trial in trials])
    return [trial for trial, stays in zip(trials, on_front, strict=True) if stays]
