"""Which trials are stopped early: Ray Tune's schedulers, made restartable.

A scheduler's memory is not saved; after a restart it is shown the recorded epochs again, in the order in which they came.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler

TIME = "epochs"
VALUE = "scheduled"


class RecordedEpoch(NamedTuple):
    """An epoch a trial reported: how many it had finished then, and the best value so far of the scheduler's metric."""

    trial: int
    epochs: int
    value: float


@dataclass(frozen=True)
class _Key:
    """What the schedulers know a trial by: its number, which outlives Ray's identifiers."""

    trial_id: str


class _NoController:
    """Stands in for Tune's controller while recorded epochs are shown again: nothing else is live."""

    def get_live_trials(self) -> list[Any]:
        return []


def make_scheduler(name: str, mode: str, epochs: int, grace_epochs: int, reduction_factor: int) -> StudyScheduler:
    """`none`, `asha` or `median`, on the running best of the scheduler's metric."""
    grace = min(grace_epochs, epochs)
    inner: TrialScheduler = FIFOScheduler()
    if name == "asha":
        inner = AsyncHyperBandScheduler(
            TIME, VALUE, mode, epochs, grace, reduction_factor=reduction_factor, stop_last_trials=False
        )
    elif name == "median":
        inner = MedianStoppingRule(TIME, VALUE, mode, grace_period=grace)
    return StudyScheduler(inner)


class StudyScheduler(FIFOScheduler):
    """Passes results to a scheduler of Tune's under the trials' own numbers, never pauses, and can be shown the past."""

    def __init__(self, inner: TrialScheduler) -> None:
        super().__init__()
        self.inner = inner
        self.held: dict[str, RecordedEpoch] = {}

    def replay(self, recorded: Iterable[RecordedEpoch], live: set[int]) -> None:
        """Show recorded epochs again.

        The last epoch of a `live` trial, one that goes on, is held back: it reports that epoch again, and the decision that
        was made on it may not have been carried out.
        """
        epochs = list(recorded)
        last = {epoch.trial: n for n, epoch in enumerate(epochs)}
        known: set[int] = set()
        for n, epoch in enumerate(epochs):
            key = _Key(str(epoch.trial))
            if epoch.trial in live and last[epoch.trial] == n:
                self.held[key.trial_id] = epoch
                continue
            if epoch.trial not in known:
                self.inner.on_trial_add(_NoController(), key)
                known.add(epoch.trial)
            result = {TIME: epoch.epochs, VALUE: epoch.value}
            self.inner.on_trial_result(_NoController(), key, result)
            if last[epoch.trial] == n:
                self.inner.on_trial_complete(_NoController(), key, result)

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        self.inner.on_trial_add(tune_controller, _key(trial))

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        key = _key(trial)
        held = self.held.pop(key.trial_id, None)
        if held is not None and result.get(TIME, 0) > held.epochs:
            self.inner.on_trial_result(tune_controller, key, {TIME: held.epochs, VALUE: held.value})
        decision: str = self.inner.on_trial_result(tune_controller, key, result)
        return TrialScheduler.STOP if decision == TrialScheduler.STOP else TrialScheduler.CONTINUE

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        if TIME in result and VALUE in result:
            self.inner.on_trial_complete(tune_controller, _key(trial), result)


def _key(trial: Any) -> _Key:
    return _Key(str(trial.config["number"]))
