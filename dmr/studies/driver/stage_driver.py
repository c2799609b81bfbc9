"""One driver's run of one stage of a study, on Ray Tune."""

from __future__ import annotations

import gc
import importlib
import logging
import shutil
import signal
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

from dmr.studies.driver.node_requests import withdraw_requests
from dmr.studies.driver.progress_display import Screen
from dmr.studies.driver.ray_cluster import StudyRay, measure_need
from dmr.studies.stages.stage import Stage
from dmr.studies.trial_outcomes import TrialOutcome

log = logging.getLogger("dmr")

StageEnd = Literal["complete", "interrupted", "stopped"]
SECONDS_BETWEEN_NOTES = 5.0
SECONDS_BETWEEN_TRIES = 0.1


class StageDriver:
    """One driver's run of one stage of a study."""

    def __init__(self, stage: Stage, screen: Screen, engine: StudyRay) -> None:
        self.plan, self.folder, self.stage = stage.plan, stage.folder, stage
        self.screen, self.engine = screen, engine
        self.interrupted = False
        self.time_is_up = False
        self.started = time.monotonic()
        self.seconds_before = self.folder.seconds_run()
        self.noted = 0.0

    def run(self) -> StageEnd:
        """Run trials until the budget is done, the time is up, or somebody stops it.

        Raises:
            StudyError: Ray does not start here, or no trial fits it.
        """
        if not self.should_stop() and not self.stage.complete:
            self.engine.start()
            importlib.import_module("dmr.studies.driver.tune_hooks")  # and Ray Tune, while Ray starts
            self.engine.wait()
            gc.enable()  # `dmr run` starts without, since it imports much
            self.train()
        return self.settle()

    def train(self) -> None:
        """Hand the trials to Ray Tune."""
        from ray import tune
        from ray.tune.execution import class_cache

        from dmr.studies.driver.tune_hooks import StudyStopper, TrialSource, TuneCallback

        handed_on = {name for name in class_cache.ENV_VARS_TO_PROPAGATE if not name.startswith("AWS_")}
        class_cache.ENV_VARS_TO_PROPAGATE = handed_on  # Ray's logs and dashboard have what it hands on: no access keys
        study, resources = self.plan.study, self.plan.study.resources
        tuner = tune.Tuner(
            self.trainable(),
            tune_config=tune.TuneConfig(
                search_alg=TrialSource(self.stage, self.capacity, self.should_stop),
                scheduler=self.stage.scheduler(),
                num_samples=-1,
                reuse_actors=not resources.distributed,  # one that is stopped cannot end its group
                trial_dirname_creator=lambda trial: f"trial_{trial.config['number']:04d}",
                trial_name_creator=lambda trial: f"trial_{trial.config['number']:04d}",
            ),
            run_config=tune.RunConfig(
                name="ray" if self.stage.stage == "search" else f"ray_{self.stage.stage}",
                storage_path=str(self.folder.path),
                callbacks=[TuneCallback(self.stage, self.screen)],
                stop=StudyStopper(self.should_stop),
                failure_config=tune.FailureConfig(max_failures=study.retries),
                verbose=0,
            ),
        )
        with self.signals(), warnings.catch_warnings(), self.stage.guarded():  # Ray has set handlers of its own
            warnings.simplefilter("ignore")
            if not self.interrupted:  # while Ray started
                tuner.fit()
        groups = self.folder.groups(self.stage.stage)
        with self.stage.guarded():
            withdraw_requests(groups, live=())
        shutil.rmtree(groups, ignore_errors=True)

    def trainable(self) -> Any:
        """What Tune runs a trial by, and what it takes: the process of a trial on several workers takes no CPU, so that
        it never holds what its workers wait for (Tune insists on something: a megabyte of memory).
        """
        import ray
        from ray import tune

        from dmr.studies.workers.local_trial import TrialContext, run_trial

        resources, metric = self.plan.study.resources, self.stage.scheduler_metric
        context = TrialContext(
            self.folder,
            self.stage.stage,
            metric,
            resources.cpus,
            resources.gpus,
            workers=resources.least_and_most,
            system_metrics=self.plan.study.tracking.system_metrics,
            recipe=self.plan.recipe if self.stage.stage == "confirm" and self.plan.redraws else None,
        )
        if resources.distributed:
            from dmr.studies.workers.worker_group import run_group

            data = [ray.put(self.stage.dataset)]
            return tune.with_resources(
                tune.with_parameters(run_group, context=context, data=data), {"cpu": 0, "memory": 2**20}
            )
        return tune.with_resources(
            tune.with_parameters(run_trial, context=context, dataset=self.stage.dataset),
            {"cpu": resources.cpus, "gpu": resources.gpus},
        )

    def capacity(self) -> int:
        """How many trials may run at a time on the nodes there are now."""
        fits = measure_need(self.plan).fits
        return min(fits, self.plan.study.resources.concurrent or fits)

    def should_stop(self) -> bool:
        """Asked by Tune at every step; keeps the clock of the time budget."""
        elapsed = self.seconds_before + time.monotonic() - self.started
        if time.monotonic() - self.noted > SECONDS_BETWEEN_NOTES:
            self.noted = time.monotonic()
            self.remember_seconds()
            self.folder.lock.remember_processes()
            withdraw_requests(self.folder.groups(self.stage.stage), self.stage.live)
        minutes = self.stage.minutes
        self.time_is_up = minutes is not None and elapsed > 60.0 * minutes
        if self.stage.tracker.journal_failed:
            self.stage.stop(str(self.stage.tracker.error))
        if self.stage.writer is not None and self.stage.writer.error is not None:
            self.stage.stop(self.stage.writer.error)
        if self.stage.error is None:
            with self.stage.guarded():
                self.stage.retry_queue.send()
        return self.interrupted or self.time_is_up or self.stage.error is not None

    def remember_seconds(self) -> None:
        """The time budget is the search's alone."""
        if self.stage.stage == "search":
            self.folder.remember_seconds(self.seconds_before + time.monotonic() - self.started)

    def settle(self) -> StageEnd:
        """End the trials that Optuna still has as running, unless the study goes on later; returns how it ended."""
        if self.time_is_up and not self.interrupted and self.stage.error is None:
            self.wait_until(lambda: self.stage.end_all(TrialOutcome("time_budget")))
            left, minutes = self.stage.remaining, self.stage.minutes
            if left:
                log.warning("the time budget of %g minutes is used up; %d trials were not run", minutes, left)
        self.wait_until(self.stage.retry_queue.send)
        if not self.interrupted and self.stage.error is None:
            with self.stage.guarded():
                self.stage.close()
            self.wait_until(self.stage.retry_queue.send)
        with self.stage.guarded():
            self.remember_seconds()
        if self.stage.error is not None:
            log.error("the study stops: %s", self.stage.error)
            return "stopped"
        return "interrupted" if self.interrupted else "complete"

    def wait_until(self, done: Callable[[], bool]) -> None:
        """Wait for Optuna's server, until it was told or somebody stops the study."""
        with self.stage.guarded():
            while not self.interrupted and self.stage.error is None and not done():
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
