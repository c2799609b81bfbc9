"""Run a study: the driver's side of Ray Tune."""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple, TextIO

from dmr.analysis.store_uris import missing_file, sqlite_file
from dmr.files import write_text
from dmr.studies.driver.local_ray import check_can_start
from dmr.studies.driver.process_output import engine_noise_to, logging_to
from dmr.studies.driver.progress_display import Screen
from dmr.studies.driver.ray_cluster import StudyRay, check_fits, local_need, measure_need, ray_running
from dmr.studies.driver.stage_driver import SECONDS_BETWEEN_TRIES, StageDriver, StageEnd
from dmr.studies.driver.storage_visibility import check_shared
from dmr.studies.errors import StudyError
from dmr.studies.reporting.publish import publish
from dmr.studies.stages.confirm_stage import Configuration, ConfirmStage
from dmr.studies.stages.search_stage import SearchStage
from dmr.studies.storage.locations import StoreUris, resolve_store_uris
from dmr.studies.storage.mlflow_store import follow_artifacts, no_such_store, open_mlflow
from dmr.studies.storage.optuna_attributes import DOCUMENT
from dmr.studies.storage.optuna_storage import load_search, open_log, open_optuna, unusable
from dmr.studies.storage.store_passwords import mask_password
from dmr.studies.storage.study_folder import StudyFolder
from dmr.studies.storage.study_status import search_ended
from dmr.studies.storage.trained_data import check_same_data, remember_data
from dmr.studies.study_file.changed_keys import changes_since, with_data_of
from dmr.studies.study_file.plan import StudyPlan
from dmr.studies.tracking.tracker import PARENT, Tracker
from dmr.studies.yaml_io import to_yaml

log = logging.getLogger("dmr")


class RunResult(NamedTuple):
    """How a driver's run ended.

    Attributes:
        succeeded: a trial of the search has.
        tracking_error: why MLflow lacks something that it can still be sent.
        tracking_notes: what else there is to say of what it has.
        refused: whether it lacks something for good.
        confirmed: what was trained again; None where there is no confirmation.
    """

    outcome: StageEnd
    succeeded: bool
    tracking_error: str | None
    tracking_notes: list[str]
    refused: bool
    confirmed: list[Configuration] | None


CLOSE_SECONDS = 30.0
SHOWN_NOTES = 10
ENGINE_SETTINGS = {
    "MALLOC_ARENA_MAX": "1",  # Tune runs each trial in a thread of its own, and glibc keeps what each of them freed
    "MALLOC_MMAP_THRESHOLD_": str(2**27),  # or every step's activations are handed back to the kernel and faulted in
    "MALLOC_TRIM_THRESHOLD_": str(2**28),  # again; keeping more is no faster
    "RAY_worker_niceness": "0",  # workers at nice 15 starve beside anything else on the machine
    "RAY_prestart_worker_first_driver": "0",  # Tune's trials never run in the processes that Ray starts in advance
    "RAY_timeout_ms_task_wait_for_death_info": "30000",  # a trial starts again once Ray knows that its process is dead
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # the report of a failed trial has no metrics
    "TUNE_MAX_PENDING_TRIALS_PG": "1000",  # else one process starts after the other; `TrialSource` knows how many fit
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",  # Optuna's database is the truth, Ray's state is not read
    "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
}


def run_study(plan: StudyPlan, folder: StudyFolder, address: str | None, same_data: bool = False) -> RunResult:
    """Run a study or go on with it, under its lock, until its budget is done or it is stopped.

    Args:
        same_data: the data are as good as those the study began with.

    Raises:
        StudyError: it began with other data, another driver runs it, it is a copy, a store or cluster cannot be
            reached, Ray cannot start here, or no trial fits the cluster.
    """
    if not same_data:
        check_same_data(folder, plan.data_digests, plan.data_source)
    os.environ.update({key: os.environ.get(key, value) for key, value in ENGINE_SETTINGS.items()})
    os.environ.pop("MLFLOW_RUN_ID", None)
    if address is None:
        check_fits(plan, local_need(plan))
    has_run = folder.stores_file.exists()
    ended = False
    with engine_noise_to(folder.log if has_run else Path(os.devnull)):
        uris = open_places(folder)
        if has_run:
            ended = _check_unedited(plan, folder)
        if uris.optuna_url != folder.optuna_url:  # before there is a folder
            open_optuna(uris.optuna_url)
    if address is None:
        if not ended or plan.study.confirm is not None:
            check_can_start()
        return _drive(plan, folder, uris, has_run, ended)
    with ray_running(address, plan.study.resources.distributed):
        check_fits(plan, measure_need(plan))
        if folder.objects is None:
            check_shared(folder.path.parent)
        return _drive(plan, folder, uris, has_run, ended)


def open_places(folder: StudyFolder) -> StoreUris:
    """The stores of a study, new or run before. One that was moved together with its MLflow store takes that one's
    artifacts along.

    Raises:
        StudyError: the study is a copy of another one, the directory of its store is gone, or the store cannot be
            written.
    """
    if not folder.stores_file.exists():
        return resolve_store_uris(folder.optuna_url)
    folder.check_original()
    uris = folder.store_uris()
    file = missing_file(uris.tracking_uri)
    if file is not None and not file.parent.is_dir():
        raise no_such_store(uris.tracking_uri, folder.name)
    follow_artifacts(uris.tracking_uri, folder.tracking_uri_before())
    return uris


def _check_unedited(plan: StudyPlan, folder: StudyFolder) -> bool:
    """Whether the search has come to its end.

    Raises:
        StudyError: the study's own file was edited by hand, so that its trials would be of two kinds; or Optuna's
            storage has lost them.
    """
    search = load_search(folder)
    began = search.user_attrs.get(DOCUMENT)  # None: an earlier version began it
    if began is not None and (changed := changes_since(with_data_of(began, plan.document), plan)):
        file = folder.place_of(folder.study_file)
        raise StudyError(
            *(f"{file}: {line}" for line in changed),
            f"{file}: was edited after the study began: put it back, or give a study of it another name",
        )
    return search_ended(plan.document, search)


@contextmanager
def _no_folder_of_a_refused_study(folder: StudyFolder) -> Iterator[None]:
    """What is refused before there is a study leaves no folder."""
    new = [path for path in (folder.path, *folder.path.parents) if not path.exists()]
    try:
        yield
    except BaseException:
        if new and not folder.exists:
            shutil.rmtree(folder.path, ignore_errors=True)
            with suppress(OSError):  # another study has begun there
                for parent in new[1:]:
                    parent.rmdir()
        raise


def _drive(plan: StudyPlan, folder: StudyFolder, uris: StoreUris, may_exist: bool, ended: bool) -> RunResult:
    """Run a study under its lock.

    Args:
        may_exist: its folder has been run before.
        ended: its search has come to its end.
    """
    from optuna.exceptions import DuplicatedStudyError, StorageInternalError

    confirmation = None
    with (
        _no_folder_of_a_refused_study(folder),
        folder.held(),
        engine_noise_to(folder.log) as stderr,
        logging_to(folder.log),
        StudyRay(plan) as engine,
    ):
        own = uris.optuna_url == folder.optuna_url
        storage = None if folder.is_own_log(uris.optuna_url) else open_optuna(uris.optuna_url)
        in_files = sqlite_file(uris.tracking_uri) is not None and (own or sqlite_file(uris.optuna_url) is not None)
        if in_files and not ended:  # servers ask for passwords, and while Ray starts there are none in the environment
            engine.start()
        experiment_id = open_mlflow(uris.tracking_uri, plan.document["experiment"], folder.study_key)
        tracker = Tracker(folder.journal, uris.tracking_uri, experiment_id, folder.writer)
        try:
            storage = storage or open_log(folder.journal, tracker.journal.append)
            search = SearchStage(plan, storage, tracker, folder, may_exist or own)
            folder.remember(uris)
            write_text(folder.study_file, to_yaml(plan.document))
            folder.keep(folder.study_file)
            remember_data(folder, plan.data_digests)
            search.open()
            outcome = _run_stage(search, None, stderr, engine)
            if outcome == "complete" and plan.study.confirm is not None and search.best is not None:
                confirmation = _open_confirmation(search)
                outcome = _run_stage(search, confirmation, stderr, engine)
            if outcome == "complete":
                tracker.end(PARENT, "FINISHED")
        except DuplicatedStudyError:
            shown = mask_password(uris.optuna_url)
            raise StudyError(
                f"Optuna's storage {shown} has another study {folder.name!r}: give this one a name"
            ) from None
        except StorageInternalError as error:
            raise unusable(uris.optuna_url, error) from None
        finally:
            sent = tracker.close(timeout=CLOSE_SECONDS if tracker.error is None else 1.0)
        if folder.writer is not None and outcome == "complete" and not folder.writer.flush():
            outcome = "stopped"
    confirmed = confirmation.configurations if confirmation is not None else None
    unsent, succeeded = None if sent else tracker.error, search.best is not None
    return RunResult(outcome, succeeded, unsent, tracker.notes, tracker.refused > 0, confirmed)


def _run_stage(search: SearchStage, confirmation: ConfirmStage | None, stderr: TextIO, engine: StudyRay) -> StageEnd:
    """Run the search or, after it, the confirmation, and publish its results."""
    stage = confirmation or search
    with Screen(stage, stderr) as screen:
        if confirmation is None and search.finished < search.total and search.plan.random_search:
            screen.say(search.plan.random_search)
        driver = StageDriver(stage, screen, engine)
        with driver.signals():
            outcome = driver.run()
            if outcome == "complete":
                publish(search, confirmation)
            return outcome


def _open_confirmation(search: SearchStage) -> ConfirmStage:
    """Waits for Optuna's server where that has just gone."""
    while True:
        if search.retry_queue.send():
            with search.retry_queue.reaching():
                confirmation = ConfirmStage(search)
                confirmation.open()
                return confirmation
        time.sleep(SECONDS_BETWEEN_TRIES)


def tracking_error_line(error: str, folder: StudyFolder) -> str:
    """What there is to say where MLflow could not be told everything."""
    return f"MLflow: {error}: the records it has not received are in {folder.place_of(folder.journal)}"


def tracking_note_lines(notes: list[str], folder: StudyFolder) -> list[str]:
    """What there is to say of what MLflow refused, or had to be told again."""
    more = f"{len(notes) - SHOWN_NOTES} more lines on MLflow are in {folder.log}"
    return [*notes[:SHOWN_NOTES], *([more] if len(notes) > SHOWN_NOTES else [])]
