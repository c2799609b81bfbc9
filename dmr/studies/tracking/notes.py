"""The description of a run, which MLflow's page shows above everything else."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from dmr.direction import Direction
from dmr.metrics import METRICS
from dmr.studies.trial_outcomes import FAILURES, TrialOutcome
from dmr.training import EpochReport

if TYPE_CHECKING:
    from dmr.studies.study_file.plan import StudyPlan
    from dmr.studies.tracking.run_logging import TrackedRun

NOTE = "mlflow.note.content"


def run_note(plan: StudyPlan, run: TrackedRun, report: EpochReport | None, ending: TrialOutcome) -> str:
    """What a training run was, how it ended and, where it has a checkpoint, how robust that is, in markdown."""
    what = f"`{plan.label(run.point)}`, seed {run.seed}, of study `{plan.study.name}`"
    if report is None or ending.reason in FAILURES:
        return f"{what}: {ending.reason}{f': `{ending.message}`' if ending.message else ''}"
    metric, combinations = plan.main_metric, plan.combinations.names
    values = np.array(report.best_values["val"][metric], dtype=np.float64)
    lines = [f"{what}: {ending.reason} after {report.epoch + 1} epochs; checkpoint of epoch {report.best_epoch}."]
    if not np.isnan(values).all():
        worst = int(np.nanargmin(values) if METRICS[metric].direction is Direction.MAX else np.nanargmax(values))
        lines.append(
            f"{metric} on val: mean over combinations {np.nanmean(values):.4f}, "
            f"worst {values[worst]:.4f} (`{combinations[worst]}`), all modalities {values[-1]:.4f}."
        )
    return "\n\n".join(lines)
