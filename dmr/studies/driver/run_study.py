"""Run a study: the driver's side of Ray Tune."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple, TextIO

from dmr.studies.driver.progress_display import Screen, engine_noise_to
from dmr.studies.driver.ray_cluster import check_fits, local_need, measure_need, ray_running
from dmr.studies.errors import StudyError
from dmr.studies.reporting.publish import keep_reading
from dmr.studies.stages.confirm_stage import Configuration, Confirmation
from dmr.studies.stages.search_stage import Ledger
from dmr.studies.stages.stage import PARENT, Bookkeeping
from dmr.studies.storage.locations import check_shared, in_ray_job
from dmr.studies.storage.mlflow_store import TrackingError, open_store
from dmr.studies.storage.optuna_storage import open_optuna, unusable
from dmr.studies.storage.store_passwords import mask_password
from dmr.studies.storage.study_folder import Places, StudyFolder, write_text
from dmr.studies.study_file.plan import StudyPlan
from dmr.studies.tracking.tracker import Tracker
from dmr.studies.trial_outcomes import Ending
from dmr.studies.yaml_io import to_yaml

log = logging.getLogger("dmr")

Outcome = Literal["complete", "interrupted", "stopped"]


class Finish(NamedTuple):
    """How a driver's run ended.

    Attributes:
        succeeded: a trial of the search has.
        unsent: why MLflow lacks something.
        confirmed: what was trained again; None where there is no confirmation.
    """

    outcome: Outcome
    succeeded: bool
    unsent: str | None
    confirmed: list[Configuration] | None


SECONDS_BETWEEN_NOTES = 5.0
SECONDS_BETWEEN_TRIES = 0.1
CLOSE_SECONDS = 30.0
ENGINE_SETTINGS = {
    "MALLOC_ARENA_MAX": "1",  # Tune runs each trial in a thread of its own, and glibc keeps what each of them freed
    "RAY_worker_niceness": "0",  # workers at nice 15 starve beside anything else on the machine
    "RAY_timeout_ms_task_wait_for_death_info": "30000",  # a trial starts again once Ray knows that its process is dead
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # the report of a failed trial has no metrics
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",  # Optuna's database is the truth, Ray's state is not read
    "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
}


def resolve_places(folder: StudyFolder) -> Places:
    """Where a new study keeps its runs and trials: from the environment, else in this directory and its folder.

    Raises:
        StudyError: a Ray job whose runs would be deleted with its working directory.
    """
    tracking_uri = os.environ.get("MLFLOW_TRACKING_URI")
    if not tracking_uri and in_ray_job():
        raise StudyError(
            "MLFLOW_TRACKING_URI: not set, and a Ray job's working directory is a temporary copy: name a server, or "
            "sqlite:////{absolute path}/mlflow.db"
        )
    tracking_uri = tracking_uri or f"sqlite:///{Path.cwd() / 'mlflow.db'}"
    return Places(tracking_uri, os.environ.get("DMR_OPTUNA_URL") or folder.optuna_url)


def open_mlflow(uri: str, experiment: str) -> str:
    """The id of the experiment, made where it is missing.

    Raises:
        StudyError: the store cannot be used.
    """
    try:
        return open_store(uri, experiment)
    except TrackingError as error:
        raise StudyError(str(error)) from None


class Launch:
    """One driver's run of one stage of a study."""

    def __init__(self, ledger: Bookkeeping, screen: Screen, engine: ExitStack) -> None:
        """Args:
        engine: keeps the Ray that is started here, if any, for the next stage.
        """
        self.plan, self.folder, self.ledger = ledger.plan, ledger.folder, ledger
        self.screen, self.engine = screen, engine
        self.interrupted = False
        self.time_is_up = False
        self.started = time.monotonic()
        self.seconds_before = self.folder.seconds_run()
        self.noted = 0.0

    def run(self) -> Outcome:
        """Run trials until the budget is done, the time is up, or somebody stops it.

        Raises:
            StudyError: no trial fits the Ray that is started here.
        """
        import ray

        if not self.should_stop() and not self.ledger.complete:
            if not ray.is_initialized():
                self.engine.enter_context(ray_running(None, self.plan.study.resources.distributed))
                check_fits(self.plan, measure_need(self.plan))  # Ray may see fewer CPUs: those of its container
            self.train()
        return self.settle()

    def train(self) -> None:
        """Hand the trials to Ray Tune."""
        from ray import tune

        from dmr.studies.driver.tune_hooks import Bookkeeper, StudyStopper, TrialSource

        study, resources = self.plan.study, self.plan.study.resources
        tuner = tune.Tuner(
            self.trainable(),
            tune_config=tune.TuneConfig(
                search_alg=TrialSource(self.ledger, self.room),
                scheduler=self.ledger.scheduler(),
                num_samples=-1,
                reuse_actors=not resources.distributed,  # one that is stopped cannot end its group
                trial_dirname_creator=lambda trial: f"trial_{trial.config['number']:04d}",
                trial_name_creator=lambda trial: f"trial_{trial.config['number']:04d}",
            ),
            run_config=tune.RunConfig(
                name="ray" if self.ledger.stage == "search" else f"ray_{self.ledger.stage}",
                storage_path=str(self.folder.path),
                callbacks=[Bookkeeper(self.ledger, self.screen)],
                stop=StudyStopper(self),
                failure_config=tune.FailureConfig(max_failures=study.retries),
                verbose=0,
            ),
        )
        with self.signals(), warnings.catch_warnings(), self.ledger.guarded():  # Ray has set handlers of its own
            warnings.simplefilter("ignore")
            if not self.interrupted:  # while Ray started
                tuner.fit()
        shutil.rmtree(self.folder.groups(self.ledger.stage), ignore_errors=True)

    def trainable(self) -> Any:
        """What Tune runs a trial by, and what it takes: the process of a trial on several workers takes no CPU, so that
        it never holds what its workers wait for (Tune insists on something: a megabyte of memory).
        """
        import ray
        from ray import tune

        from dmr.studies.workers.local_trial import TrialContext, run_trial

        resources, metric = self.plan.study.resources, self.ledger.scheduler_metric
        context = TrialContext(
            self.folder,
            self.ledger.stage,
            metric,
            resources.cpus,
            resources.gpus,
            workers=resources.least_and_most,
            system_metrics=self.plan.study.tracking.system_metrics,
        )
        if resources.distributed:
            from dmr.studies.workers.worker_group import run_group

            data = [ray.put(self.ledger.dataset)]
            return tune.with_resources(
                tune.with_parameters(run_group, context=context, data=data), {"cpu": 0, "memory": 2**20}
            )
        return tune.with_resources(
            tune.with_parameters(run_trial, context=context, dataset=self.ledger.dataset),
            {"cpu": resources.cpus, "gpu": resources.gpus},
        )

    def room(self) -> int:
        """How many trials may run at a time on the nodes there are now."""
        fits = measure_need(self.plan).fits
        return min(fits, self.plan.study.resources.concurrent or fits)

    def should_stop(self) -> bool:
        """Asked by Tune at every step; keeps the clock of the time budget."""
        elapsed = self.seconds_before + time.monotonic() - self.started
        if time.monotonic() - self.noted > SECONDS_BETWEEN_NOTES:
            self.noted = time.monotonic()
            self.remember_seconds()
            self.folder.remember_processes()
        minutes = self.ledger.minutes
        self.time_is_up = minutes is not None and elapsed > 60.0 * minutes
        if self.ledger.tracker.journal_failed:
            self.ledger.trouble = self.ledger.tracker.problem
        if self.ledger.trouble is None:
            with self.ledger.guarded():
                self.ledger.outbox.send()
        return self.interrupted or self.time_is_up or self.ledger.trouble is not None

    def remember_seconds(self) -> None:
        """The time budget is the search's alone."""
        if self.ledger.stage == "search":
            self.folder.remember_seconds(self.seconds_before + time.monotonic() - self.started)

    def settle(self) -> Outcome:
        """What is still running in Optuna's database is told how it ended, unless the study goes on later."""
        if self.time_is_up and not self.interrupted and self.ledger.trouble is None:
            self.until(lambda: self.ledger.end_all(Ending("time_budget")))
            left, minutes = self.ledger.remaining, self.ledger.minutes
            if left:
                log.warning("the time budget of %g minutes is used up; %d trials were not run", minutes, left)
        self.until(self.ledger.outbox.send)
        if not self.interrupted and self.ledger.trouble is None:
            with self.ledger.guarded():
                self.ledger.close()
            self.until(self.ledger.outbox.send)
        with self.ledger.guarded():
            self.remember_seconds()
        if self.ledger.trouble is not None:
            log.error("the study stops: %s", self.ledger.trouble)
            return "stopped"
        return "interrupted" if self.interrupted else "complete"

    def until(self, done: Callable[[], bool]) -> None:
        """Wait for Optuna's server, until it was told or somebody stops the study."""
        with self.ledger.guarded():
            while not self.interrupted and self.ledger.trouble is None and not done():
                time.sleep(SECONDS_BETWEEN_TRIES)

    @contextmanager
    def signals(self) -> Iterator[None]:
        """SIGINT and SIGTERM stop the study cleanly; a second SIGINT is not caught."""

        def stop(number: int, _: Any) -> None:
            self.interrupted = True
            signal.signal(signal.SIGINT, signal.default_int_handler)

        before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def run_study(plan: StudyPlan, folder: StudyFolder, address: str | None) -> Finish:
    """Run a study or go on with it, under its lock, until its budget is done or it is stopped.

    Raises:
        StudyError: another driver runs it, a store or cluster cannot be reached, or no trial fits the cluster.
    """
    os.environ.update({key: os.environ.get(key, value) for key, value in ENGINE_SETTINGS.items()})
    os.environ.pop("MLFLOW_RUN_ID", None)
    if address is None:
        check_fits(plan, local_need(plan))
    known = folder.places() if (folder.path / "places.json").exists() else None
    with engine_noise_to(folder.log if known else Path(os.devnull)):
        places = known or resolve_places(folder)
        experiment_id = open_mlflow(places.tracking_uri, plan.document["experiment"])
        if places.optuna_url != folder.optuna_url:  # before there is a folder
            open_optuna(places.optuna_url)
    if address is None:
        return _drive(plan, folder, places, experiment_id, known is not None)
    with ray_running(address, plan.study.resources.distributed):
        check_fits(plan, measure_need(plan))
        check_shared(folder.path.parent)
        return _drive(plan, folder, places, experiment_id, known is not None)


def _drive(plan: StudyPlan, folder: StudyFolder, places: Places, experiment_id: str, known: bool) -> Finish:
    """Run a study under its lock. `known`: its folder has been run before."""
    from optuna.exceptions import DuplicatedStudyError, StorageInternalError

    confirmation = None
    with folder.locked(), engine_noise_to(folder.log) as people, logging_to(folder.log), ExitStack() as engine:
        storage = open_optuna(places.optuna_url)
        tracker = Tracker(folder.journal, places.tracking_uri, experiment_id)
        try:
            ledger = Ledger(plan, storage, tracker, folder, known or places.optuna_url == folder.optuna_url)
            folder.remember(places)
            write_text(folder.study_file, to_yaml(plan.document))
            ledger.open()
            outcome = _run_stage(ledger, None, people, engine)
            if outcome == "complete" and plan.study.confirm is not None and ledger.best is not None:
                confirmation = _open_confirmation(ledger)
                outcome = _run_stage(ledger, confirmation, people, engine)
            if outcome == "complete":
                tracker.end(PARENT, "FINISHED")
        except DuplicatedStudyError:
            shown = mask_password(places.optuna_url)
            raise StudyError(
                f"Optuna's storage {shown} has another study {folder.name!r}: give this one a name"
            ) from None
        except StorageInternalError as error:
            raise unusable(places.optuna_url, error) from None
        finally:
            sent = tracker.close(timeout=CLOSE_SECONDS if tracker.problem is None else 1.0)
    confirmed = confirmation.configurations if confirmation is not None else None
    return Finish(outcome, ledger.best is not None, None if sent else tracker.problem, confirmed)


def _run_stage(search: Ledger, confirmation: Confirmation | None, people: TextIO, engine: ExitStack) -> Outcome:
    """Run the search or, after it, the confirmation, and keep what there is to read of it."""
    stage = confirmation or search
    with Screen(stage, people) as screen:
        launch = Launch(stage, screen, engine)
        with launch.signals():
            outcome = launch.run()
            if outcome == "complete":
                keep_reading(search, confirmation)
            return outcome


def _open_confirmation(search: Ledger) -> Confirmation:
    """Waits for Optuna's server where that has just gone."""
    while True:
        if search.outbox.send():
            with search.outbox.reaching():
                confirmation = Confirmation(search)
                confirmation.open()
                return confirmation
        time.sleep(SECONDS_BETWEEN_TRIES)


class _WithoutPasswords(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return mask_password(super().format(record))


@contextmanager
def logging_to(path: Path) -> Iterator[None]:
    """Write the logs of this project and of the engines to a file."""
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(_WithoutPasswords("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    root.addHandler(handler)
    logging.captureWarnings(True)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        root.removeHandler(handler)
        handler.close()


def unsent_line(problem: str, folder: StudyFolder) -> str:
    """What there is to say where MLflow could not be told everything."""
    return f"MLflow: {problem}: what it has not got is in {folder.journal}"
