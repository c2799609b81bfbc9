"""How a trial ends: its stop reason, and the state that Optuna and the status that MLflow get for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from optuna.trial import TrialState

StopReason = Literal["completed", "pruned", "time_budget", "diverged", "out_of_memory", "error", "lost"]
FAILURES: tuple[StopReason, ...] = ("diverged", "out_of_memory", "error", "lost")


@dataclass(frozen=True)
class TrialOutcome:
    """Why a trial ended; `message` is one line, `details` a traceback, for those that failed."""

    reason: StopReason
    message: str = ""
    details: str = ""


def optuna_state(reason: StopReason, epochs: int, objectives: int) -> TrialState:
    """The state of a trial that finished `epochs` epochs, in a study with so many objectives."""
    from optuna.trial import TrialState  # processes that train load this file and no Optuna

    if reason in FAILURES or epochs == 0:
        return TrialState.FAIL
    if reason == "completed" or objectives > 1:
        return TrialState.COMPLETE  # Optuna has no intermediate values, so no pruning, with several objectives
    return TrialState.PRUNED


def mlflow_status(reason: StopReason, epochs: int) -> str:
    if reason in FAILURES:
        return "FAILED"
    return "FINISHED" if epochs else "KILLED"


class Tested(NamedTuple):
    """How a run did on test: summaries over combinations, and values (C,) by metric. The results of single samples are
    in the file `SAMPLES` of its folder.
    """

    metrics: dict[str, float]
    values: dict[str, list[float]]
