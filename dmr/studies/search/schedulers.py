"""Which trials are stopped early: Ray Tune's schedulers, made restartable.

A scheduler's memory is not saved; after a restart it is shown the recorded epochs again, in the order they came in.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler

from dmr.studies.trial_messages import TIME, VALUE

CONTINUE: str = TrialScheduler.CONTINUE
STOP: str = TrialScheduler.STOP


class RecordedEpoch(NamedTuple):
    """An epoch a trial reported: how many it had finished then, and the best value so far of the scheduler's metric."""

    trial: int
    epochs: int
    value: float
    block: str | None = None


@dataclass(frozen=True)
class _Key:
    """What the schedulers know a trial by: its number, which outlives Ray's identifiers."""

    trial_id: str
    block: str | None


class _NoController:
    """Stands in for Tune's controller while recorded epochs are shown again: nothing else is live."""

    def get_live_trials(self) -> list[Any]:
        return []


def make_scheduler(name: str, mode: str, epochs: int, grace_epochs: int, reduction_factor: int) -> StudyScheduler:
    """`none`, `asha` or `median`, on the running best of the scheduler's metric."""
    grace = min(grace_epochs, epochs)

    def make() -> TrialScheduler:
        if name == "asha":
            return AsyncHyperBandScheduler(
                TIME, VALUE, mode, epochs, grace, reduction_factor=reduction_factor, stop_last_trials=False
            )
        return MedianStoppingRule(TIME, VALUE, mode, grace_period=grace) if name == "median" else FIFOScheduler()

    return StudyScheduler(make)


class StudyScheduler(FIFOScheduler):
    """Shows each epoch once to a scheduler of Tune's, under the trial's own number; never pauses; can be replayed.

    Each block has a scheduler of its own, so that trials are compared with those of their block only.
    """

    def __init__(self, make: Callable[[], TrialScheduler]) -> None:
        super().__init__()
        self.inner: defaultdict[str | None, TrialScheduler] = defaultdict(make)
        self.shown: dict[_Key, int] = {}
        self.overdue: set[_Key] = set()

    def replay(self, recorded: Iterable[RecordedEpoch], live: set[int]) -> None:
        """Show recorded epochs again.

        A `live` trial goes on: it reports its last epoch again, or the next one. Where it was to be stopped, and the
        driver died before that was done, it is stopped then.
        """
        for epoch in recorded:
            key = _Key(str(epoch.trial), epoch.block)
            decision = self._show(_NoController(), key, epoch.epochs, epoch.value)
            if decision == STOP and epoch.trial in live:
                self.overdue.add(key)
            else:
                self.overdue.discard(key)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        key = _Key(str(trial.config["number"]), trial.config.get("block"))
        if TIME not in result or VALUE not in result:
            return CONTINUE
        return STOP if key in self.overdue else self._show(tune_controller, key, result[TIME], result[VALUE])

    def _show(self, controller: Any, key: _Key, epochs: int, value: float) -> str:
        """The decision after an epoch; an epoch that was shown before changes nothing."""
        if epochs <= self.shown.get(key, 0):
            return CONTINUE
        inner = self.inner[key.block]
        if key not in self.shown:
            inner.on_trial_add(controller, key)
        self.shown[key] = epochs
        decision = inner.on_trial_result(controller, key, {TIME: epochs, VALUE: value})
        if isinstance(inner, MedianStoppingRule):  # it fails on a trial that goes on after it said stop
            inner._stopped_trials.discard(key)
        return STOP if decision == STOP else CONTINUE
