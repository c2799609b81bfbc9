"""A training run as MLflow keeps it: the same for the trials of a search and for a run of its own."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from dmr.analysis.results.record_names import (
    BEST_PREFIX,
    CONFIRM,
    DIAGNOSTICS,
    SAMPLES,
    VALUES,
    Tag,
    best_metric,
    counted,
    summary_metric,
)
from dmr.combinations import complete_metric
from dmr.data.dataset import MultimodalDataset
from dmr.data.missing import complete_samples, tied_to_class
from dmr.files import write_text
from dmr.metrics import METRICS
from dmr.studies.storage.store_passwords import mask_password
from dmr.studies.storage.trial_files import ERROR
from dmr.studies.study_file.plan import StudyPlan
from dmr.studies.tracking.dataset_inputs import searched_inputs, tested_inputs
from dmr.studies.tracking.provenance import git_commit, user_name
from dmr.studies.tracking.tracker import Tracker
from dmr.studies.trial_outcomes import FAILURES, Tested, TrialOutcome, mlflow_status
from dmr.training import EpochReport

NOTE = "mlflow.note.content"


class TrackedRun(NamedTuple):
    """What a run is known by, and trains.

    Attributes:
        key: its key in the journal.
        tags: beside those that every run of the study has.
    """

    key: str
    name: str
    stage: str
    point: Mapping[str, Any]
    seed: int
    tags: Mapping[str, str]

    def own_tags(self, plan: StudyPlan) -> dict[str, str]:
        return {Tag.SEED: str(self.seed), Tag.METHOD: plan.label(self.point), **self.tags}

    def model_params(self, plan: StudyPlan) -> dict[str, Any]:
        """What tells the models of a study apart."""
        return {"method": plan.label(self.point), "seed": self.seed, **self.point}


def stage_tags(plan: StudyPlan, stage: str) -> dict[str, str]:
    """The tags of every run of a study."""
    tags = {Tag.STUDY: plan.study.name, Tag.STAGE: stage, "mlflow.source.name": "dmr", "mlflow.source.type": "LOCAL"}
    if (user := user_name()) is not None:
        tags["mlflow.user"] = user
    if (commit := git_commit()) is not None:
        tags |= {Tag.GIT_COMMIT: commit, "mlflow.source.git.commit": commit}
    return tags


def presence_tags(dataset: MultimodalDataset) -> dict[str, str]:
    """What a study's own run says of samples that lack modalities; nothing where none does."""
    complete, tied = complete_samples(dataset), tied_to_class(dataset)
    return ({Tag.COMPLETE: json.dumps(complete)} if complete else {}) | ({Tag.TIED: json.dumps(tied)} if tied else {})


@dataclass(frozen=True)
class RunLogger:
    """Writes how the runs of a study begin and end."""

    tracker: Tracker
    plan: StudyPlan

    def start(self, run: TrackedRun, parent: str | None = None) -> None:
        """Begin a run, or go on with it."""
        params = self.plan.parameters(run.point, run.seed)
        tags = stage_tags(self.plan, run.stage) | run.own_tags(self.plan)
        self.tracker.start(run.key, name=run.name, parent=parent, tags=tags, params=params)
        self.tracker.inputs(run.key, tested_inputs(self.plan) if run.stage == CONFIRM else searched_inputs(self.plan))

    def end(
        self,
        run: TrackedRun,
        folder: Path,
        checkpoint: str,
        report: EpochReport | None,
        outcome: TrialOutcome,
        tested: Tested | None = None,
    ) -> None:
        """Keep how the run ended and its small files in `folder`. Unless it failed, also log a model that names its
        `checkpoint` and has the values of the chosen epoch, those on test among them where it was `tested`.
        """
        folder.mkdir(parents=True, exist_ok=True)
        tracker, plan, key = self.tracker, self.plan, run.key
        tags: dict[str, str] = {Tag.STOP_REASON: outcome.reason}
        if report is not None:
            tags[Tag.EPOCHS] = str(report.epoch + 1)
        if report is not None and outcome.reason not in FAILURES:
            best = {
                f"{BEST_PREFIX}{name}": value for name, value in report.best_metrics.items() if name.startswith("val/")
            }
            names = plan.combinations.names
            best_values = report.best_values
            if tested is not None:
                best |= {f"{BEST_PREFIX}{name}": value for name, value in tested.metrics.items()}
                best_values = best_values | {"test": tested.values}
                tracker.artifact(key, folder / SAMPLES, own=False)
            for split, metrics in best_values.items():
                for metric in (plan.main_metric, complete_metric(plan.main_metric)):
                    values = zip(names, metrics[metric], strict=True) if metric in metrics else ()
                    best |= {best_metric(split, metric, name): v for name, v in values if not math.isnan(v)}
            where = {"checkpoint": checkpoint}
            note = f"{run_note(plan, run, report, outcome)}\n\nThe checkpoint lies at `{checkpoint}`, not in MLflow."
            of_model = {Tag.STUDY: plan.study.name, Tag.STAGE: run.stage, **run.own_tags(plan), **where, NOTE: note}
            tracker.model(key, key, name=run.name, tags=of_model, params=run.model_params(plan))
            tracker.metrics(
                key, {f"{BEST_PREFIX}epoch": report.best_epoch, **best}, step=0, model=key
            )  # MLflow draws bars of one step
            write_text(folder / VALUES, combinations_csv(best_values, names))
            tracker.artifact(key, folder / VALUES)
            tags |= where
        if (folder / DIAGNOSTICS).exists() or (report is not None and tracker.journal.writer is not None):
            tracker.artifact(key, folder / DIAGNOSTICS, own=False)  # perhaps another machine's; not every method has it
        if outcome.details or outcome.message:
            text = mask_password(f"{outcome.reason}: {outcome.message}\n\n{outcome.details}")
            write_text(folder / ERROR, text)
            tracker.artifact(key, folder / ERROR)
        tracker.tags(key, tags | {NOTE: run_note(plan, run, report, outcome)})
        tracker.end(key, mlflow_status(outcome.reason, 0 if report is None else report.epoch + 1))


def combinations_csv(best_values: Mapping[str, Mapping[str, list[float]]], names: tuple[str, ...]) -> str:
    """Every metric of every combination at the best epoch: split, metric, combination, value. What is not defined, such
    as a metric of a combination that no sample has, has no row.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("split", "metric", "combination", "value"))
    for split, metrics in best_values.items():
        for metric, values in metrics.items():
            pairs = zip(names, values, strict=True)
            writer.writerows((split, metric, name, repr(value)) for name, value in pairs if not math.isnan(value))
    return text.getvalue()


def run_note(plan: StudyPlan, run: TrackedRun, report: EpochReport | None, outcome: TrialOutcome) -> str:
    """What a training run was, how it ended and, where it has a checkpoint, how robust that is, in markdown."""
    what = f"`{plan.label(run.point)}`, seed {run.seed}, of study `{plan.study.name}`"
    if report is None or outcome.reason in FAILURES:
        return f"{what}: {outcome.reason}{f': `{outcome.message}`' if outcome.message else ''}"
    lines = [
        f"{what}: {outcome.reason} after {counted(report.epoch + 1, 'epoch')}; checkpoint of epoch {report.best_epoch}."
    ]
    metric, names, found = plan.main_metric, plan.combinations.names, report.best_values["val"]
    best = {name: report.best_metrics.get(f"val/{summary_metric(metric, name)}") for name in ("mean", "worst")}
    if best["mean"] is not None:
        text = f"{metric} on val: mean over combinations {best['mean']:.4f}"
        if best["worst"] is not None:
            compared = found.get(complete_metric(metric), found[metric])
            worst = names[compared.index(METRICS[metric].direction.worst(compared))]
            text += f", worst {best['worst']:.4f} (`{worst}`), all modalities {compared[-1]:.4f}"
        if (count := report.best_metrics.get("val/samples_complete")) is not None:
            text += (
                f"; of the {counted(round(count), 'sample')} with all modalities"
                if count
                else "; no sample has them all"
            )
        lines.append(f"{text}.")
    return "\n\n".join(lines)
