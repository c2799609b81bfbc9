"""The table "How a trial ends" of the design, row by row."""

from __future__ import annotations

from typing import get_args

import pytest
from optuna.trial import TrialState

from dmr.studies.trial_outcomes import FAILURES, StopReason, mlflow_status, optuna_state

TABLE = [
    # stop_reason, epochs, objectives, Optuna, MLflow
    ("completed", 40, 1, TrialState.COMPLETE, "FINISHED"),
    ("completed", 40, 2, TrialState.COMPLETE, "FINISHED"),
    ("pruned", 8, 1, TrialState.PRUNED, "FINISHED"),
    ("time_budget", 1, 1, TrialState.PRUNED, "FINISHED"),
    ("pruned", 8, 2, TrialState.COMPLETE, "FINISHED"),
    ("time_budget", 1, 2, TrialState.COMPLETE, "FINISHED"),
    ("time_budget", 0, 1, TrialState.FAIL, "KILLED"),
    ("time_budget", 0, 2, TrialState.FAIL, "KILLED"),
    *(
        (reason, epochs, objectives, TrialState.FAIL, "FAILED")
        for reason in ("diverged", "out_of_memory", "error", "lost")
        for epochs in (0, 3)
        for objectives in (1, 2)
    ),
]


@pytest.mark.parametrize(("reason", "epochs", "objectives", "state", "status"), TABLE)
def test_how_a_trial_ends(reason: StopReason, epochs: int, objectives: int, state: TrialState, status: str) -> None:
    assert optuna_state(reason, epochs, objectives) is state
    assert mlflow_status(reason, epochs) == status


def test_the_table_has_every_stop_reason() -> None:
    assert {row[0] for row in TABLE} == set(get_args(StopReason))
    assert set(FAILURES) == {row[0] for row in TABLE if row[4] == "FAILED"}
