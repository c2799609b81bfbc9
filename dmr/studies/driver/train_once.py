"""`dmr train`: one training run with the file's defaults, in this process."""

from __future__ import annotations

import hashlib
import json
import os
import traceback
from pathlib import Path

import torch
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from dmr.analysis.results.record_names import Tag
from dmr.direction import Direction
from dmr.files import write_text
from dmr.studies.driver.process_output import engine_noise_to, logging_to
from dmr.studies.driver.ray_cluster import check_fits, local_need
from dmr.studies.driver.run_study import CLOSE_SECONDS, open_places, tracking_error_line, tracking_note_lines
from dmr.studies.stages.trial_checkpoints import TrialCheckpoints, TrialObjects
from dmr.studies.storage.locations import Storage
from dmr.studies.storage.mlflow_store import open_mlflow
from dmr.studies.storage.study_folder import StudyFolder
from dmr.studies.storage.study_objects import TRAINED
from dmr.studies.storage.trained_data import check_same_data, remember_data
from dmr.studies.storage.trial_files import ERROR
from dmr.studies.study_file.plan import StudyPlan
from dmr.studies.tracking.run_logging import RunLogger, TrackedRun
from dmr.studies.tracking.tracker import Tracker
from dmr.studies.trial_outcomes import TrialOutcome
from dmr.studies.workers.checkpoint_reporter import FolderReporter, StorageFailed
from dmr.studies.workers.checkpoint_uploads import CheckpointUploads
from dmr.studies.workers.failures import one_line, reason_of
from dmr.studies.workers.system_metrics import SystemMonitor
from dmr.studies.yaml_io import to_yaml
from dmr.training import EpochReport, fit

KEY = "train"
FIRST_LEASE = 1  # whoever trains it, it is the same run


class TrackedReporter(FolderReporter):
    """Hands epochs to MLflow and to a progress bar."""

    def __init__(
        self,
        folder: Path,
        followed: tuple[str, Direction],
        tracker: Tracker,
        progress: Progress,
        epochs: int,
        monitor: SystemMonitor | None,
        checkpoints: TrialCheckpoints,
        uploads: CheckpointUploads | None,
    ) -> None:
        super().__init__(folder, followed, monitor, uploads)
        self.checkpoints = checkpoints
        self.tracker, self.progress = tracker, progress
        self.task = progress.add_task("training", total=epochs)

    def report(self, report: EpochReport) -> None:
        self.tracker.metrics(KEY, report.metrics, step=report.epoch)
        if self.monitor is not None and (system := self.monitor.sample()):
            self.tracker.metrics(KEY, system, step=report.epoch)
        if self.uploads is not None:
            self.checkpoints.uploaded(0, self.uploads.uploaded(), report.epoch + 1)
        self.progress.update(self.task, completed=report.epoch + 1)
        if (value := report.metrics.get(self.metric)) is not None:  # an epoch that was evaluated
            text = f"{self.metric} {value:.4f}, best {self.running_best:.4f}"
            self.progress.update(self.task, description=text)


def train_once(plan: StudyPlan, storage: Storage, console: Console, same_data: bool = False) -> int:
    """Train, or go on with the same run after an interruption; returns the exit code.

    Args:
        same_data: the data are as good as those the run began with.

    Raises:
        StudyError: MLflow cannot be reached, the folder is a copy, the run began with other data, or is being trained
            by another process.
    """
    if plan.study.resources.distributed:
        console.print(
            "dmr train: trains in this one process; `resources.workers` is ignored", markup=False, soft_wrap=True
        )
        plan = plan.on_one_worker()
    check_fits(plan, local_need(plan))
    settings = plan.run_settings({}, plan.study.seed)
    digest = hashlib.sha256(json.dumps(plan.document, sort_keys=True).encode()).hexdigest()[:8]
    below = f"{storage}/{plan.study.name}" if isinstance(storage, str) else storage / plan.study.name
    folder = StudyFolder.open(below, f"{TRAINED}{digest}")
    if not same_data:
        check_same_data(folder, plan.data_digests, plan.data_source)
    begun = None if folder.journal_id is None else f"{folder.journal_id}/{KEY}"
    with engine_noise_to(Path(os.devnull)):
        uris = open_places(folder)
        experiment_id = open_mlflow(uris.tracking_uri, plan.document["experiment"], begun)
    report, outcome = None, TrialOutcome("completed")
    with folder.held(), logging_to(folder.log):
        folder.remember(uris)
        write_text(folder.study_file, to_yaml(plan.document))
        folder.keep(folder.study_file)
        remember_data(folder, plan.data_digests)
        tracker = Tracker(folder.journal, uris.tracking_uri, experiment_id, folder.writer)
        try:
            logger = RunLogger(tracker, plan)
            run = TrackedRun(KEY, f"{plan.study.name}-train", "train", {}, plan.study.seed, {Tag.TRIAL: "0"})
            checkpoints, uploads = _checkpoints(folder, max((step for _, step, _ in tracker.history()), default=-1) + 1)
            if any(tracker.history()) and (lost := checkpoints.lost(0)) is not None:
                console.print(f"{lost} is not there any more: the run begins again", markup=False, soft_wrap=True)
            logger.start(run)
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            with Progress(*columns, console=console, transient=True) as progress:
                followed = (settings.select, Direction(settings.select_mode))
                device = torch.device("cuda" if plan.study.resources.gpus > 0 else "cpu")
                monitor = SystemMonitor(device) if plan.study.tracking.system_metrics else None
                reporter = TrackedReporter(
                    folder.path,
                    followed,
                    tracker,
                    progress,
                    settings.train.epochs,
                    monitor,
                    checkpoints,
                    uploads,
                )
                try:
                    report = fit(plan.dataset, settings, device, reporter)
                    reporter.end()
                except StorageFailed as error:
                    raise OSError(str(error)) from None
                except Exception as error:
                    outcome = TrialOutcome(reason_of(error), one_line(error), traceback.format_exc())
            checkpoint = "" if report is None else checkpoints.chosen(0, report.best_epoch)
            logger.end(run, folder.path, checkpoint, report, outcome)
        finally:
            sent = tracker.close(timeout=CLOSE_SECONDS)
    if not sent:
        console.print(tracking_error_line(str(tracker.error), folder), markup=False, soft_wrap=True)
    for note in tracking_note_lines(tracker.notes, folder):
        console.print(note, markup=False, soft_wrap=True)
    run_line = f"run: {tracker.run_id(KEY) or 'not in MLflow yet'}"
    if report is None:
        failed = f"{plan.study.name}: {outcome.reason}: {outcome.message}"
        for line in (failed, run_line, f"traceback: {folder.place_of(folder.path / ERROR)}"):
            console.print(line, markup=False, soft_wrap=True)
        return 1
    Console(highlight=False).print(combination_table(plan, report))
    console.print(run_line, markup=False, soft_wrap=True)
    console.print(f"checkpoint: {checkpoint}", markup=False, soft_wrap=True)
    return int(tracker.refused > 0)


def _checkpoints(folder: StudyFolder, epochs: int) -> tuple[TrialCheckpoints, CheckpointUploads | None]:
    """Those of the run, of which so many epochs are recorded, and what takes them to object storage, if there."""
    if folder.objects is None or folder.writer is None:
        return TrialCheckpoints(lambda _: folder.path), None
    checkpoints = TrialObjects(lambda _: folder.path, folder.writer)
    start = checkpoints.begin(0, FIRST_LEASE, epochs)
    return checkpoints, CheckpointUploads(folder.objects.store_of(folder.path), folder.path, start)


def combination_table(plan: StudyPlan, report: EpochReport) -> Table:
    """One row per combination, one column per metric, at the epoch the checkpoint was chosen at."""
    metrics = report.best_values["val"]
    table = Table(title=f"{plan.study.name}: val, epoch {report.best_epoch}", title_justify="left", box=box.SIMPLE_HEAD)
    for column in ("combination", *metrics):
        table.add_column(column, justify="left" if column == "combination" else "right", overflow="fold")
    for name, *values in zip(plan.combinations.names, *metrics.values(), strict=True):
        table.add_row(name, *(f"{value:.4f}" for value in values))
    return table
