"""What a study keeps in Optuna's storage beside values: the name and type of every user attribute.

The strings are on people's disks and do not change.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import optuna
from optuna.trial import FrozenTrial

from dmr.studies.trial_outcomes import StopReason

CONFIRM = "confirm"  # Optuna's study of the confirmation is NAME/confirm: no study can have that name

# of a study
ENDED = "ended"  # the budget it has come to the end of
DOCUMENT = "document"  # the study as resolved when it began
PUBLISHED = "kept"  # the number of trials that had ended when figures, report and model were made last
WANTED = "wanted"  # of a confirmation: the name of the configuration of each wanted run, by `ConfirmRunKey.key`
REDRAWN = "redrawn"  # of a confirmation: whether each seed has data of its own
WITHOUT_MODALITIES = "without_modalities"  # of a confirmation: the main metric on test of always answering one class

# of a trial
STOP_REASON = "stop_reason"
EPOCHS = "epochs"
BEST = "best"
PAIR = "pair"
POINT = "point"
BEGUN = "begun"  # in object storage: the number of the lease under which the trial was begun


class BestValues(NamedTuple):
    """A trial that succeeded, at the epoch its checkpoint was chosen at.

    Attributes:
        objective: the first objective.
        worst: the main metric of its worst combination.
    """

    objective: float
    worst: float


class ConfirmRunKey(NamedTuple):
    """What a confirm run is known by, however the ranks change: block or method, trial of the search, seed."""

    method: str
    trial: int
    seed: int

    @property
    def key(self) -> str:
        return f"{self.method}/{self.trial}/{self.seed}"


def best_of(trial: FrozenTrial) -> BestValues | None:
    """None where the trial has not succeeded."""
    found = trial.user_attrs.get(BEST)
    return None if found is None else BestValues(*found)


def objectives_of(trial: FrozenTrial) -> list[float]:
    """The objectives of a trial that has succeeded; a single one that was pruned has its running best."""
    best = best_of(trial)
    assert best is not None
    return list(trial.values) if trial.values is not None and len(trial.values) > 1 else [best.objective]


def stop_reason_of(trial: FrozenTrial) -> str:
    """How it ended; its state in Optuna where it has not, or where a driver died before it could say."""
    return str(trial.user_attrs.get(STOP_REASON, trial.state.name.lower()))


def ended_reason(trial: FrozenTrial) -> StopReason:
    """How a trial ended that has."""
    reason: StopReason = trial.user_attrs.get(STOP_REASON, "error")
    return reason


def confirm_run_key(trial: FrozenTrial) -> ConfirmRunKey:
    """What a run of the confirmation is known by."""
    return ConfirmRunKey(*trial.user_attrs[PAIR])


def confirm_attributes(key: ConfirmRunKey, point: dict[str, Any]) -> dict[str, Any]:
    """The attributes of a run of the confirmation that waits."""
    return {PAIR: list(key), POINT: point}


def point_of_confirm_run(trial: FrozenTrial) -> dict[str, Any]:
    point: dict[str, Any] = trial.user_attrs[POINT]
    return point


def wanted_runs(study: optuna.Study) -> dict[str, str]:
    """Of a confirmation: the names of the configurations by `ConfirmRunKey.key`."""
    wanted: dict[str, str] = study.user_attrs.get(WANTED, {})
    return wanted
