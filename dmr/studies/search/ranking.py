"""Which trials are the best: of the study, of each block, of a Pareto front; and whose checkpoints stay."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from optuna.trial import FrozenTrial

from dmr.studies.study_file.plan import StudyPlan


class Ranked(NamedTuple):
    """A trial that succeeded; of its `values`, one an objective, more is better."""

    number: int
    values: tuple[float, ...]


def ranked(plan: StudyPlan, trial: FrozenTrial) -> Ranked:
    """A trial of Optuna's; one that was pruned has its running best among its attributes."""
    several = len(plan.study.objective) > 1
    return ranked_values(plan, trial.number, trial.values if several else trial.user_attrs["best"][:1])


def ranked_values(plan: StudyPlan, number: int, values: Sequence[float]) -> Ranked:
    signed = (v if o.mode == "max" else -v for o, v in zip(plan.study.objective, values, strict=True))
    return Ranked(number, tuple(signed))


def best_first(trials: Iterable[Ranked]) -> list[Ranked]:
    """By the first objective; of equal ones the earlier first."""
    return sorted(trials, key=lambda trial: (-trial.values[0], trial.number))


def front(trials: Sequence[Ranked]) -> list[Ranked]:
    """The Pareto front: those that no other one beats in one objective without losing in another."""
    values = {trial.values for trial in trials}
    return [trial for trial in trials if not any(_dominates(other, trial.values) for other in values)]


def _dominates(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one != other and all(a >= b for a, b in zip(one, other, strict=True))


class Keeper:
    """Chooses the finished trials whose checkpoint stays: of each block the best so many, the Pareto front where there
    are several objectives, and those with the file's own values. A trial that is out never comes back.

    Args:
        keep: how many; None for all.
    """

    def __init__(self, keep: int | None) -> None:
        self.keep = keep
        self._held: dict[str | None, list[Ranked]] = {}
        self._always: set[int] = set()

    def add(self, trial: Ranked, block: str | None, always: bool) -> list[int]:
        """A trial has succeeded: those that are out now, it among them or not."""
        held = [*self._held.get(block, []), trial]
        if always:
            self._always.add(trial.number)
        stay = {one.number for one in best_first(held)[: self.keep]} | (self._always & {one.number for one in held})
        if len(trial.values) > 1:
            stay |= {one.number for one in front(held)}
        self._held[block] = [one for one in held if one.number in stay]
        return [one.number for one in held if one.number not in stay]

    def holds(self, number: int) -> bool:
        return any(number == one.number for held in self._held.values() for one in held)
