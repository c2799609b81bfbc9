"""The bookkeeping of the search: its trials, their points, and the study's own run."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import optuna
from optuna.trial import FrozenTrial

from dmr.analysis.results.record_names import DEFAULTS, SEARCH_BEST_PREFIX, SEARCH_SECONDS, STUDY_STAGE, Tag
from dmr.data.dataset import MultimodalDataset
from dmr.metrics import METRICS
from dmr.studies.errors import StudyError
from dmr.studies.search.checkpoint_retention import CheckpointRetention
from dmr.studies.search.ranking import ranked
from dmr.studies.search.samplers import Proposer
from dmr.studies.stages.stage import Stage, ranked_trial
from dmr.studies.stages.trial_records import BestTrial, StartedTrial, TrialRecord
from dmr.studies.storage.optuna_attributes import DOCUMENT, ENDED, BestValues, best_of, ended_reason
from dmr.studies.storage.study_folder import StageName, StudyFolder
from dmr.studies.study_file.plan import StudyPlan
from dmr.studies.tracking.dataset_inputs import searched_inputs
from dmr.studies.tracking.provenance import versions
from dmr.studies.tracking.run_logging import presence_tags, stage_tags
from dmr.studies.tracking.tracker import PARENT, Tracker
from dmr.studies.trial_outcomes import StopReason, TrialOutcome

if TYPE_CHECKING:  # Ray Tune, which a complete study does not need
    from dmr.studies.search.schedulers import RecordedEpoch, StudyScheduler

log = logging.getLogger("dmr")


class ChartPoint(NamedTuple):
    """How far the first `trials` of a search came: the best value of the first objective, and how long they ran."""

    trials: int
    best: float | None
    seconds: float


class SearchStage(Stage):
    """The trials of a search, as many as the budget has."""

    stage: ClassVar[StageName] = "search"
    noun: ClassVar[str] = "trial"

    def __init__(
        self,
        plan: StudyPlan,
        storage: optuna.storages.BaseStorage,
        tracker: Tracker,
        folder: StudyFolder,
        may_exist: bool,
    ) -> None:
        """Args:
            may_exist: the storage may have this study already; else it must have none of this name.

        Raises:
            optuna.exceptions.DuplicatedStudyError: it has one.
            StudyError: journal and storage are not of the same trials: one of them is lost or damaged.
        """
        super().__init__(plan, storage, tracker, folder, plan.study.name, may_exist)
        self._check_records()
        self.exhausted = False
        self.ended: dict[int, BestValues | None] = {}
        self.charted = ChartPoint(0, None, 0.0)
        budget = plan.study.budget.trials
        self.proposer = Proposer(self.study, plan.space, plan.study.sampler, plan.study.seed, plan.blocks, budget)
        self.retention = CheckpointRetention(plan.study.checkpoints.keep)
        self.defaults = [plan.defaults(block) for block in plan.blocks]
        for trial in self.study.get_trials(deepcopy=False):
            if trial.state.is_finished():
                self._count(trial.number, ended_reason(trial), best_of(trial))
                if best_of(trial) is not None:
                    point, block = plan.space.point_of(trial.params), self.proposer.block_of(trial)
                    self.retention.add(ranked_trial(plan, trial), block, self._is_default(point))

    def open(self) -> None:
        """Begin the study's own run, or go on with it. What an earlier driver did not come to remove goes now."""
        self.checkpoints.remove_leftovers(self.study.get_trials(deepcopy=False), self.retention.holds)
        if DOCUMENT not in self.study.user_attrs:
            self.study.set_user_attr(DOCUMENT, self.plan.document)
        self._open_parent()
        self._chart()
        for point in self.plan.first[len(self.study.get_trials(deepcopy=False)) :]:  # a kill may come between two
            self.proposer.enqueue(point)

    @property
    def dataset(self) -> MultimodalDataset:
        """Without `test`: what is not there cannot be read."""
        splits = {name: split for name, split in self.plan.dataset.splits.items() if name != "test"}
        return replace(self.plan.dataset, splits=splits)

    @property
    def minutes(self) -> float | None:
        return self.plan.study.budget.minutes

    @property
    def total(self) -> int:
        return max(self.plan.study.budget.trials, self.finished)

    @property
    def remaining(self) -> int:
        return max(0, self.plan.study.budget.trials - self.finished - len(self.live) - len(self.interrupted))

    @property
    def complete(self) -> bool:
        """Whether the study has come to its end with this budget, perhaps early: by time, or in a finite space."""
        return self.study.user_attrs.get(ENDED) == self._budget or super().complete

    def finish(self, number: int, outcome: TrialOutcome) -> None:
        super().finish(number, outcome)
        self._chart()

    def close(self) -> None:
        self.retry_queue.put(lambda: self.study.set_user_attr(ENDED, self._budget))

    @property
    def _budget(self) -> dict[str, Any]:
        return self.plan.study.budget.model_dump()

    def scheduler(self) -> StudyScheduler:
        from dmr.studies.search.schedulers import make_scheduler

        given = self.plan.study.scheduler
        epochs, grace = self.plan.max_epochs, self.plan.grace_epochs
        scheduler = make_scheduler(given.name, self.scheduler_metric[1], epochs, grace, given.reduction_factor)
        scheduler.replay(self.recorded_epochs(), {trial.number for trial in self.interrupted})
        return scheduler

    def recorded_epochs(self) -> list[RecordedEpoch]:
        """What a scheduler has to be shown again after a restart, in the order in which it came."""
        from dmr.studies.search.schedulers import RecordedEpoch

        blocks = {trial.number: self.proposer.block_of(trial) for trial in self.study.get_trials(deepcopy=False)}
        return [
            RecordedEpoch(epoch.trial, epoch.epoch + 1, epoch.best, blocks[epoch.trial])
            for epoch in self._running_bests(*self.scheduler_metric)
        ]

    def _check_records(self) -> None:
        """The journal is told first of a trial that begins and ends, so neither can have what the other lacks."""
        trials = self.study.get_trials(deepcopy=False)
        recorded = {int(key.partition("/")[2]) for key in self.tracker.begun() if key.startswith("search/")}
        ended = {trial.number for trial in trials if trial.state.is_finished()}
        if unknown := sorted(ended - recorded):
            raise StudyError(
                f"{self.tracker.journal.path}: lacks trial {unknown[0]}, which Optuna's storage has: the file was lost "
                "or damaged; put back a copy of it (`dmr table` shows what is in MLflow)"
            )
        if lost := sorted(recorded - {trial.number for trial in trials}):
            raise StudyError(
                f"Optuna's storage has no trial {lost[0]} of study {self.study.study_name!r}, which "
                f"{self.tracker.journal.path} has: it was lost or damaged; put back a copy of it"
            )

    def _next(self) -> StartedTrial | None:
        asked = None if self.exhausted else self.proposer.ask()
        if asked is not None:
            return self._started_trial(*asked)
        if not self.exhausted:
            self.exhausted = True
            log.warning("every point of the search space was tried: the study ends with %d trials", self.finished)
        return None

    def _again(self, trial: FrozenTrial) -> StartedTrial:
        return self._started_trial(trial, self.proposer.complete(trial))

    def _started_trial(self, trial: FrozenTrial | optuna.Trial, point: dict[str, Any]) -> StartedTrial:
        tags = {Tag.TRIAL: str(trial.number)} | ({Tag.CONFIG: DEFAULTS} if self._is_default(point) else {})
        return StartedTrial(trial, point, self.plan.study.seed, tags)

    def _outdated(self, record: TrialRecord, values: list[float] | None) -> list[int]:
        if values is None:
            return [record.number]
        trial = ranked(self.plan, record.number, values)
        return self.retention.add(trial, record.block, self._is_default(record.point))

    def _is_default(self, point: dict[str, Any]) -> bool:
        return self.plan.space.canonical(point) in self.defaults

    def _count(self, number: int, reason: StopReason, best: BestValues | None) -> None:
        super()._count(number, reason, best)
        self.ended[number] = best
        if best is None:
            return
        direction = self.objectives[0].direction
        if self.best is None or direction.better(best.objective, than=self.best.values.objective):
            self.best = BestTrial(number, best)

    def _chart(self) -> None:
        """Draw the search on the study's own run: a point per trial, once it and all before it have ended."""
        objective = self.objectives[0]
        while self.charted.trials in self.ended:
            number, best, seconds = self.charted
            if (values := self.ended[number]) is not None:
                best = objective.direction.best((values.objective, values.objective if best is None else best))
            seconds += self.tracker.seconds(f"{self.stage}/{number}")
            found = {} if best is None else {f"{SEARCH_BEST_PREFIX}{objective.metric}": best}
            self.tracker.metrics(PARENT, {SEARCH_SECONDS: seconds, **found}, step=number)
            self.charted = ChartPoint(number + 1, best, seconds)

    def _open_parent(self) -> None:
        combinations = self.plan.combinations
        number = 2 ** len(combinations.modalities) - 1
        dataset = self.plan.dataset
        samples = {name: len(split) for name, split in dataset.splits.items()}
        self.tracker.start(
            PARENT,
            name=self.plan.study.name,
            params={"dataset.name": dataset.name, "seed": self.plan.study.seed},
            tags=stage_tags(self.plan, STUDY_STAGE)
            | ({Tag.DEPLOYMENT: json.dumps(odds)} if (odds := self.plan.study.deployment) else {})
            | presence_tags(self.dataset)
            | {
                Tag.MODALITIES: json.dumps(combinations.modalities),
                Tag.OBJECTIVES: json.dumps([o.model_dump() for o in self.objectives]),
                Tag.RANDOM_SEARCH: self.plan.random_search,
                Tag.SEARCHED: json.dumps(self.plan.space.keys),
                Tag.DATASET: dataset.name,
                Tag.SAMPLES: json.dumps(samples | {"classes": dataset.num_classes}),
                Tag.VERSIONS: json.dumps(versions()),
                Tag.MAIN_METRIC: self.plan.main_metric,
                Tag.MAIN_METRIC_MODE: METRICS[self.plan.main_metric].direction,
                Tag.COMBINATIONS: f"all {number}" if combinations.complete else f"{len(combinations)} of {number}",
            },
        )
        self.tracker.inputs(PARENT, searched_inputs(self.plan))
        self.tracker.artifact(PARENT, self.folder.study_file, own=False)  # `StudyFolder.keep` is told of it
