"""The study's bookkeeping: what happens to a trial is written to Optuna and MLflow here, and nowhere else.

Optuna's database is the truth. A trial is its Optuna number; its MLflow run has the key `search/NUMBER`.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import optuna
import torch
from optuna.trial import TrialState

from dmr.checkpoints import load_checkpoint
from dmr.metrics import METRICS
from dmr.training import EpochReport, RunSettings
from studies.endings import ENDED, Ending, StopReason, optuna_state
from studies.folder import StudyFolder
from studies.plan import StudyPlan
from studies.reporters import LAST
from studies.runs import end_run, stage_tags, start_run
from studies.sampling import Proposer
from studies.scheduler import RecordedEpoch
from studies.schema import metric_direction
from studies.tracking import Tracker

log = logging.getLogger("dmr")

PARENT = "study"


@dataclass
class TrialRecord:
    """A trial that runs: what it is and the last epoch it reported."""

    number: int
    trial_id: int
    point: dict[str, Any]
    settings: RunSettings
    report: EpochReport | None = None

    @property
    def key(self) -> str:
        return f"search/{self.number}"

    @property
    def epochs(self) -> int:
        return 0 if self.report is None else self.report.epoch + 1


class Ledger:
    """Begins, follows and ends the trials of one study."""

    def __init__(
        self, plan: StudyPlan, storage: optuna.storages.BaseStorage, tracker: Tracker, folder: StudyFolder, known: bool
    ) -> None:
        """Args:
            known: the storage may have this study already; else it must have none of this name.

        Raises:
            optuna.exceptions.DuplicatedStudyError: it has one.
        """
        self.plan, self.storage, self.tracker, self.folder = plan, storage, tracker, folder
        self.objectives = plan.study.objective
        self.live: dict[int, TrialRecord] = {}
        self.endings: Counter[StopReason] = Counter()
        self.best: tuple[float, int, float] | None = None  # value, trial, its worst combination
        self.exhausted = False
        self.trouble: str | None = None
        self.study = study = optuna.create_study(
            storage=storage,
            study_name=plan.study.name,
            directions=["maximize" if o.mode == "max" else "minimize" for o in self.objectives],
            load_if_exists=known,
        )
        self.proposer = Proposer(
            study, plan.space, plan.study.sampler, plan.study.seed, plan.parts, plan.study.budget.trials
        )
        for trial in study.get_trials(deepcopy=False):
            if trial.state.is_finished():
                self._count(trial.number, trial.user_attrs.get("stop_reason", "error"), trial.user_attrs.get("best"))
        self.interrupted = [t for t in study.get_trials(deepcopy=False) if t.state == TrialState.RUNNING]

    def open(self) -> None:
        """Begin the study's own run, or go on with it."""
        self._open_parent()
        for point in self.plan.first[len(self.study.get_trials(deepcopy=False)) :]:  # a kill may come between two
            self.proposer.enqueue(point)

    @property
    def finished(self) -> int:
        """Trials that have ended, in any way."""
        return sum(self.endings.values())

    @property
    def remaining(self) -> int:
        """Trials of the budget that have not been started, now or by an earlier driver."""
        return max(0, self.plan.study.budget.trials - self.finished - len(self.live) - len(self.interrupted))

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """What Optuna's storage, a disk or Ray raises here becomes `trouble`: the study stops and can go on later."""
        try:
            yield
        except Exception as error:
            log.info("the bookkeeping failed", exc_info=True)
            self.trouble = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"

    def begin(self) -> TrialRecord | None:
        """The next trial: one that an earlier driver left running, else a new one; None when there is none left."""
        if self.interrupted:
            trial = self.interrupted.pop(0)
            number, trial_id, point = trial.number, trial._trial_id, self.proposer.complete(trial)
        elif self.remaining and not self.exhausted:
            asked = self.proposer.ask()
            if asked is None:
                self.exhausted = True
                log.warning("every point of the search space was tried: the study ends with %d trials", self.finished)
                return None
            number, trial_id, point = asked[0].number, asked[0]._trial_id, asked[1]
        else:
            return None
        record = TrialRecord(number, trial_id, point, self.plan.run_settings(point, self.plan.study.seed))
        self.live[number] = record
        name = f"{self.plan.study.name}-{number:04d}"
        start_run(self.tracker, self.plan, record.key, name, "search", point, PARENT, {"trial": str(number)})
        return record

    def epoch(self, number: int, report: EpochReport) -> None:
        """An epoch was reported; one that is reported again, after a restart, is written once."""
        record = self.live[number]
        record.report = report
        self.tracker.metrics(record.key, report.metrics, step=report.epoch)
        self._check_journal()
        if len(self.objectives) == 1:
            self.storage.set_trial_intermediate_value(record.trial_id, report.epoch, self._values(report)[0])

    def finish(self, number: int, ending: Ending) -> None:
        """The trial has ended: told to MLflow's journal, then to Optuna, so that a kill between the two leaves a trial
        that goes on, ends again, and is written once.
        """
        record = self.live[number]
        state = optuna_state(ending.reason, record.epochs, len(self.objectives))
        values = self._values(record.report) if record.report is not None else None
        worst = record.report.best_metrics[f"val/{self.plan.main_metric}_worst"] if record.report is not None else None
        attributes: dict[str, Any] = {"stop_reason": ending.reason, "epochs": record.epochs}
        if values is not None and state != TrialState.FAIL:
            attributes["best"] = [values[0], worst]
        end_run(self.tracker, self.plan, record.key, self.folder.trial(number), record.report, ending)
        self._check_journal()
        for name, value in attributes.items():
            self.storage.set_trial_user_attr(record.trial_id, name, value)
        self.study.tell(number, values if state == TrialState.COMPLETE else None, state=state)
        del self.live[number]
        self._count(number, ending.reason, attributes.get("best"))
        (self.folder.trial(number) / LAST).unlink(missing_ok=True)
        if ending.message:
            log.warning("trial %d %s: %s", number, ending.reason, ending.message)

    def end_all(self, ending: Ending) -> None:
        """End the trials that run and those an earlier driver left running, which came as far as their checkpoint."""
        while self.interrupted:
            self.begin()
        for number, record in list(self.live.items()):
            if record.report is None:
                state = load_checkpoint(self.folder.trial(number) / LAST, torch.device("cpu"))
                record.report = EpochReport(**state["report"]) if state is not None else None
            self.finish(number, ending)

    def close(self) -> None:
        """The study is complete."""
        self.study.set_user_attr(ENDED, self._budget)
        self.tracker.end(PARENT, "FINISHED")

    @property
    def complete(self) -> bool:
        """Whether the study has come to its end with this budget, perhaps early: by time, or in a finite space."""
        return self.study.user_attrs.get(ENDED) == self._budget or not (self.remaining or self.interrupted)

    @property
    def _budget(self) -> dict[str, Any]:
        return self.plan.study.budget.model_dump()

    def recorded_epochs(self) -> list[RecordedEpoch]:
        """What a scheduler has to be shown again after a restart, in the order in which it came."""
        metric, mode = self.scheduler_metric
        better = max if mode == "max" else min
        blocks = {trial.number: self.proposer.block(trial) for trial in self.study.get_trials(deepcopy=False)}
        best: dict[int, float] = {}
        recorded = []
        for key, step, values in self.tracker.history():
            if key.startswith("search/") and metric in values:
                number = int(key.removeprefix("search/"))
                best[number] = better(best.get(number, values[metric]), values[metric])
                recorded.append(RecordedEpoch(number, step + 1, best[number], blocks[number]))
        return recorded

    @property
    def scheduler_metric(self) -> tuple[str, str]:
        """The metric a scheduler looks at, and its better end."""
        metric = str(self.plan.study.scheduler.metric or self.objectives[0].metric)
        return metric, metric_direction(metric)

    def _check_journal(self) -> None:
        """Optuna is told only what is in MLflow's journal.

        Raises:
            OSError: the journal could not be written.
        """
        if self.tracker.journal_failed:
            raise OSError(self.tracker.problem)

    def _values(self, report: EpochReport) -> list[float]:
        """The objectives at the epoch the checkpoint is chosen at: with one objective, its running best."""
        return [report.best_metrics[str(objective.metric)] for objective in self.objectives]

    def _count(self, number: int, reason: StopReason, best: list[float] | None) -> None:
        self.endings[reason] += 1
        if best is None:
            return
        sign = 1.0 if self.objectives[0].mode == "max" else -1.0
        if self.best is None or sign * best[0] > sign * self.best[0]:
            self.best = (best[0], number, best[1])

    def _open_parent(self) -> None:
        combinations = self.plan.combinations
        number = 2 ** len(combinations.modalities) - 1
        self.tracker.start(
            PARENT,
            name=self.plan.study.name,
            params={"dataset.name": self.plan.dataset.name, "seed": self.plan.study.seed},
            tags=stage_tags(self.plan, "study")
            | {
                "modalities": json.dumps(combinations.modalities),
                "objectives": json.dumps([o.model_dump() for o in self.objectives]),
                "searched": json.dumps(self.plan.space.keys),
                "dataset": self.plan.dataset.name,
                "main_metric": self.plan.main_metric,
                "main_metric_mode": METRICS[self.plan.main_metric].direction,
                "combinations": f"all {number}" if combinations.complete else f"{len(combinations)} of {number}",
            },
        )
        self.tracker.artifact(PARENT, self.folder.study_file)
