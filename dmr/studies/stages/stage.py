"""The bookkeeping of one stage of a study: what happens to a trial is written to Optuna and MLflow here, nowhere else.

Optuna's database is the truth. A trial is its Optuna number in its stage; its MLflow run has the key `STAGE/NUMBER`.
While the database's server is away, running trials go on, what happens to them waits in the retry queue, and none is
started.
"""

from __future__ import annotations

import logging
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import optuna
from optuna.storages import JournalStorage
from optuna.trial import FrozenTrial, TrialState

from dmr.data.dataset import MultimodalDataset
from dmr.direction import Direction
from dmr.studies.search.ranking import Ranked, ranked
from dmr.studies.stages.trial_checkpoints import TrialCheckpoints, TrialObjects
from dmr.studies.stages.trial_records import BestTrial, JournalEpoch, StartedTrial, TrialRecord
from dmr.studies.storage.optuna_attributes import BEGUN, BEST, EPOCHS, STOP_REASON, BestValues, objectives_of
from dmr.studies.storage.retry_queue import NOT_YET, RetryQueue
from dmr.studies.storage.store_passwords import mask_password
from dmr.studies.storage.study_folder import StageName, StudyFolder
from dmr.studies.storage.trial_files import StartFrom
from dmr.studies.study_file.plan import StudyPlan
from dmr.studies.study_file.validation import metric_direction
from dmr.studies.tracking.run_logging import RunLogger, TrackedRun
from dmr.studies.tracking.tracker import PARENT, Tracker
from dmr.studies.trial_outcomes import StopReason, Tested, TrialOutcome, optuna_state
from dmr.training import EpochReport

if TYPE_CHECKING:
    from dmr.studies.search.schedulers import StudyScheduler

log = logging.getLogger("dmr")


class Stage:
    """Begins, follows and ends the trials of one stage; which trials there are is the stage's own."""

    stage: ClassVar[StageName]
    noun: ClassVar[str]  # what people call one of its trials
    best: BestTrial | None = None  # for the screen

    def __init__(
        self,
        plan: StudyPlan,
        storage: optuna.storages.BaseStorage,
        tracker: Tracker,
        folder: StudyFolder,
        study_name: str,
        may_exist: bool,
    ) -> None:
        """Args:
            may_exist: the storage may have this study already; else it must have none of this name.

        Raises:
            optuna.exceptions.DuplicatedStudyError: it has one.
        """
        self.plan, self.storage, self.tracker, self.folder = plan, storage, tracker, folder
        self.run_logger = RunLogger(tracker, plan)
        self.writer = folder.writer
        self.checkpoints = (
            TrialCheckpoints(partial(folder.run, self.stage))
            if self.writer is None
            else TrialObjects(partial(folder.run, self.stage), self.writer)
        )
        self.objectives = plan.study.objective
        self.live: dict[int, TrialRecord] = {}
        self.outcomes: Counter[StopReason] = Counter()
        self.error: str | None = None
        self.retry_queue = RetryQueue()
        self.needs_reconciling = False  # whether the storage may have started a trial that is not in `live`
        self.study = optuna.create_study(
            storage=storage,
            study_name=study_name,
            directions=["maximize" if o.direction is Direction.MAX else "minimize" for o in self.objectives],
            load_if_exists=may_exist,
        )
        if self.study.metric_names is None:  # else pages of Optuna's dashboard show `Objective 0`
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                self.study.set_metric_names([str(objective.metric) for objective in self.objectives])
        self.interrupted = self._running()
        self.unwritten = self._unwritten_epochs()

    # ---- what a stage has of its own ----

    @property
    def dataset(self) -> MultimodalDataset:
        """What its trials may read."""
        raise NotImplementedError

    @property
    def minutes(self) -> float | None:
        """How long it may run, summed over drivers."""
        return None

    @property
    def total(self) -> int:
        """Its trials, in all."""
        raise NotImplementedError

    @property
    def remaining(self) -> int:
        """Trials that have not been started, now or by an earlier driver."""
        raise NotImplementedError

    @property
    def complete(self) -> bool:
        return not (self.remaining or self.interrupted)

    def scheduler(self) -> StudyScheduler:
        """The scheduler of its trials, which remembers what earlier drivers saw."""
        raise NotImplementedError

    def _next(self) -> StartedTrial | None:
        """A new trial; None where there is none left."""
        raise NotImplementedError

    def _again(self, trial: FrozenTrial) -> StartedTrial:
        """A trial that an earlier driver left running."""
        raise NotImplementedError

    def _outdated(self, record: TrialRecord, values: list[float] | None) -> list[int]:
        """The trials whose chosen network need not stay, now that this one has ended; see `_tidy`."""
        return []

    @property
    def waits(self) -> bool:
        """Whether a trial that did not begin may begin later, when a store is back."""
        return self._store_is_away or self.retry_queue.waits or self.retry_queue.error is not None

    @property
    def _store_is_away(self) -> bool:
        return self.writer is not None and self.writer.away is not None

    # ---- what happens to trials ----

    @property
    def finished(self) -> int:
        """Trials that have ended, in any way."""
        return sum(self.outcomes.values())

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """An exception of Optuna's storage, a disk or Ray becomes `error`: the study stops and can go on later."""
        try:
            yield
        except Exception as error:
            log.info("a record of the study could not be written", exc_info=True)
            self.error = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"

    def begin(self) -> TrialRecord | None:
        """The next trial: one that an earlier driver left running, else a new one; None when there is none left, or
        none now, since the server is away.
        """
        started: StartedTrial | None = None
        start: StartFrom | None = None
        if not self.retry_queue.send() or self._store_is_away:
            return None
        with self.retry_queue.reaching():
            self._find_running()
            self.needs_reconciling = True
            if self.interrupted:
                started = self._again(self.interrupted[0])
                start = self._go_on(self.interrupted.pop(0))
            elif self.remaining:
                started = self._next()
                start = None if started is None else self._start(started.trial)
            self.needs_reconciling = False
        if started is None:
            return None
        number, settings = started.trial.number, self.plan.run_settings(started.point, started.seed)
        name = f"{self.plan.study.name}-{'' if self.stage == 'search' else f'{self.stage}-'}{number:04d}"
        run = TrackedRun(f"{self.stage}/{number}", name, self.stage, started.point, started.seed, started.tags)
        record = TrialRecord(number, started.trial._trial_id, run, started.point, settings, start)
        self.live[number] = record
        self.run_logger.start(run, PARENT)
        for epoch, value in self.unwritten.pop(number, {}).items():
            self._put_value(record.trial_id, epoch, value)
        return record

    def epoch(
        self,
        number: int,
        report: EpochReport,
        system: Mapping[str, float] | None = None,
        uploaded: Sequence[str] = (),
    ) -> None:
        """An epoch was reported, perhaps with what it took of its machine and the objects that were written. One that
        is reported again, after a restart, is written once.
        """
        record = self.live[number]
        record.report = report
        self.tracker.metrics(record.key, report.metrics, step=report.epoch)
        if system:
            self.tracker.metrics(record.key, system, step=report.epoch)
        self._check_journal()
        if len(self.objectives) == 1:
            self._put_value(record.trial_id, report.epoch, self._values(report)[0])
        self.checkpoints.uploaded(number, uploaded, record.epochs)

    def tested(self, number: int, tested: Tested) -> None:
        """A trial's checkpoint was evaluated on test."""
        self.live[number].tested = tested

    def stop(self, error: str) -> None:
        """Something outside the trials is wrong: nothing more is written, and the study can go on later."""
        self.error = error

    def finish(self, number: int, outcome: TrialOutcome) -> None:
        """The trial has ended: told to MLflow's journal, then to Optuna, so that a kill between the two leaves a trial
        that goes on, ends again, and is written once.
        """
        record = self.live[number]
        state = optuna_state(outcome.reason, record.epochs, len(self.objectives))
        values = self._values(record.report) if record.report is not None else None
        attributes: dict[str, Any] = {STOP_REASON: outcome.reason, EPOCHS: record.epochs}
        if record.report is not None and values is not None and state != TrialState.FAIL:
            attributes[BEST] = list(
                BestValues(values[0], record.report.best_metrics[f"val/{self.plan.main_metric}_worst"])
            )
        run_folder, checkpoint = self.folder.run(self.stage, number), ""
        if record.report is not None and BEST in attributes:
            checkpoint = self.checkpoints.chosen(number, record.report.best_epoch)
            if outcome.reason == "pruned":  # its process goes on to something else, or is ended
                self.checkpoints.wait_for(number, record.report)
        self.run_logger.end(record.run, run_folder, checkpoint, record.report, outcome, record.tested)
        self._check_journal()
        if self.writer is not None and not isinstance(self.storage, JournalStorage):
            self.retry_queue.put(partial(self._is_durable, self.tracker.journal.end))
        for name, value in attributes.items():
            self.retry_queue.put(partial(self.storage.set_trial_user_attr, record.trial_id, name, value))
        self.retry_queue.put(partial(self._tell, number, values if state == TrialState.COMPLETE else None, state))
        del self.live[number]
        self._count(number, outcome.reason, BestValues(*attributes[BEST]) if BEST in attributes else None)
        self.retry_queue.put(partial(self._tidy, record, values if BEST in attributes else None))
        if outcome.message:
            log.warning("%s %d %s: %s", self.noun, number, outcome.reason, mask_password(outcome.message))

    def end_all(self, outcome: TrialOutcome) -> bool:
        """End the trials that run and those an earlier driver left running, which came as far as their checkpoint;
        False where that has to be done again, since the server is away.
        """
        if not self.retry_queue.send():
            return False
        with self.retry_queue.reaching():
            self._find_running()
        if self.needs_reconciling:
            return False
        while self.interrupted:
            if self.begin() is None:
                return False
        for number, record in list(self.live.items()):
            record.report = self.checkpoints.report(number, record.report)
            self.finish(number, outcome)
        return self.retry_queue.send()

    def close(self) -> None:
        """The stage is complete."""

    @property
    def scheduler_metric(self) -> tuple[str, Direction]:
        """The metric a scheduler looks at, and which way it is better."""
        metric = str(self.plan.study.scheduler.metric or self.objectives[0].metric)
        return metric, metric_direction(metric)

    def _running(self) -> list[FrozenTrial]:
        """Trials that are RUNNING in the storage and not here."""
        trials = self.study.get_trials(deepcopy=False)
        return [trial for trial in trials if trial.state == TrialState.RUNNING and trial.number not in self.live]

    def _start(self, trial: FrozenTrial | optuna.Trial) -> StartFrom | None:
        """A trial begins."""
        start = self.checkpoints.begin(trial.number, None, 0)
        if start is not None:
            self.retry_queue.put(partial(self.storage.set_trial_user_attr, trial._trial_id, BEGUN, start.since))
        return start

    def _go_on(self, trial: FrozenTrial) -> StartFrom | None:
        """A trial goes on that an earlier driver left running. Without its checkpoints it is trained again."""
        number, since = trial.number, trial.user_attrs.get(BEGUN)
        if self.writer is not None and since is None:  # not even its beginning was written
            return self._start(trial)
        steps = [step for key, step, values in self._epochs_in_journal() if key == number]
        start = self.checkpoints.begin(number, since, max(steps, default=-1) + 1)
        if steps and (lost := self.checkpoints.lost(number)) is not None:
            log.warning("%s %d: %s is not there any more: it begins again", self.noun, number, lost)
        return start

    def _find_running(self) -> None:
        """A trial that the storage began before its server went away is one more that was left running."""
        if self.needs_reconciling:
            self.interrupted = self._running()
            self.needs_reconciling = False

    def _unwritten_epochs(self) -> dict[int, dict[int, float]]:
        """What the journal knows of trials left running, and the storage, whose server was away, does not: the running
        best of the objective, by trial and epoch.
        """
        found: dict[int, dict[int, float]] = defaultdict(dict)
        if not self.interrupted or len(self.objectives) > 1:
            return found
        (objective,) = self.objectives
        trials = {trial.number: trial for trial in self.interrupted}
        for epoch in self._running_bests(str(objective.metric), objective.direction):
            if epoch.trial in trials and epoch.epoch not in trials[epoch.trial].intermediate_values:
                found[epoch.trial][epoch.epoch] = epoch.best
        return found

    def _running_bests(self, metric: str, direction: Direction) -> Iterator[JournalEpoch]:
        """The epochs of this stage's trials in the journal, in their order; those that were not evaluated, too."""
        best: dict[int, float] = {}
        for trial, step, values in self._epochs_in_journal():
            if metric in values:
                best[trial] = direction.best((best.get(trial, values[metric]), values[metric]))
            if trial in best:
                yield JournalEpoch(trial, step, best[trial])

    def _epochs_in_journal(self) -> Iterator[tuple[int, int, dict[str, float]]]:
        """Trial, epoch and metrics of this stage's trials, in their order."""
        for key, step, values in self.tracker.history():
            stage, _, number = key.partition("/")
            if stage == self.stage and any(name.startswith(("train/", "val/")) for name in values):
                yield int(number), step, values

    def _put_value(self, trial_id: int, epoch: int, value: float) -> None:
        self.retry_queue.put(partial(self.storage.set_trial_intermediate_value, trial_id, epoch, value))

    def _tell(self, number: int, values: list[float] | None, state: TrialState) -> None:
        """End a trial; one that has just been ended, although the server did not say so, is left as it is."""
        told = self.study.tell(number, values, state=state, skip_if_finished=True)
        assert told.state == state

    def _tidy(self, record: TrialRecord, values: list[float] | None) -> None:
        """Optuna knows that the trial has ended: checkpoints that nobody needs any more go.

        Args:
            values: the objectives; None where it failed.
        """
        outdated = self._outdated(record, values)
        for number in {record.number, *outdated}:
            self.checkpoints.remove(number, number not in outdated, record.epochs)

    def _is_durable(self, end: int) -> object:
        """Optuna's server is told what nobody can lose any more."""
        return None if self.tracker.journal.durable_end >= end else NOT_YET

    def _check_journal(self) -> None:
        """Optuna is told only what is in MLflow's journal.

        Raises:
            OSError: the journal could not be written.
        """
        if self.tracker.journal_failed:
            raise OSError(self.tracker.error)

    def _values(self, report: EpochReport) -> list[float]:
        """The objectives at the epoch the checkpoint is chosen at: with one objective, its running best."""
        return [report.best_metrics[str(objective.metric)] for objective in self.objectives]

    def _count(self, number: int, reason: StopReason, best: BestValues | None) -> None:
        self.outcomes[reason] += 1


def ranked_trial(plan: StudyPlan, trial: FrozenTrial) -> Ranked:
    """A trial of Optuna's that succeeded."""
    return ranked(plan, trial.number, objectives_of(trial))
