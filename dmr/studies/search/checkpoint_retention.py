"""Whose checkpoints stay when trials have ended."""

from __future__ import annotations

from dmr.studies.search.ranking import Ranked, best_first, front


class CheckpointRetention:
    """Chooses the finished trials whose checkpoint stays: of each block the best so many, the Pareto front where there
    are several objectives, and those with the file's defaults. A trial that is out never comes back.

    Args:
        keep: how many; None for all.
    """

    def __init__(self, keep: int | None) -> None:
        self.keep = keep
        self._held: dict[str | None, list[Ranked]] = {}
        self._always: set[int] = set()

    def add(self, trial: Ranked, block: str | None, always: bool) -> list[int]:
        """Take in a trial that succeeded; returns the trials whose checkpoint goes now, perhaps its own."""
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
