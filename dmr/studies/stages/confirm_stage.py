"""The bookkeeping of the confirmation: the best configurations of a search, and the file's defaults, with new seeds.

Each configuration and seed is a trial of a second Optuna study, `NAME/confirm`. Only these runs read the test split,
once each, after their checkpoint was chosen on val; before them only its labels are read, for the value without any
modality.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import optuna
from optuna.trial import FrozenTrial, TrialState

from dmr.analysis.results.record_names import CONFIG_SEPARATOR, DEFAULTS, EARLIER, Tag, best_name
from dmr.data.augmentation import AugmentSettings, centre_crop
from dmr.data.dataset import MultimodalDataset
from dmr.direction import Direction
from dmr.studies.errors import StudyError
from dmr.studies.search.ranking import best_first, front
from dmr.studies.stages.search_stage import SearchStage
from dmr.studies.stages.stage import Stage, ranked_trial
from dmr.studies.stages.trial_records import StartedTrial
from dmr.studies.storage.optuna_attributes import (
    CONFIRM,
    REDRAWN,
    WANTED,
    WITHOUT_MODALITIES,
    ConfirmRunKey,
    best_of,
    confirm_attributes,
    confirm_run_key,
    ended_reason,
    point_of_confirm_run,
    wanted_runs,
)
from dmr.studies.storage.study_folder import StageName
from dmr.studies.study_file.plan import StudyPlan
from dmr.studies.tracking.dataset_inputs import tested_inputs
from dmr.studies.tracking.run_logging import presence_tags
from dmr.studies.tracking.tracker import PARENT
from dmr.without_modalities import value_without_modalities

NO_TRIAL = -1

if TYPE_CHECKING:
    from dmr.studies.search.schedulers import StudyScheduler


class Configuration(NamedTuple):
    """What is trained again.

    Attributes:
        method: as in tables: the block, or the method.
        name: `best 1`, `best 2`, ..., `defaults`, or both.
        trial: of the search; `NO_TRIAL` for the file's defaults where the search did not run them.
    """

    method: str
    name: str
    trial: int
    point: dict[str, Any]


def choose_configurations(search: SearchStage) -> list[Configuration]:
    """The best configurations of each block, or of the study where there are no blocks, each time with the defaults
    where `confirm.defaults` wants them.
    """
    plan, trials = search.plan, search.study.get_trials(deepcopy=False)
    assert plan.study.confirm is not None
    chosen = []
    for block in plan.blocks:
        own = [trial for trial in trials if search.proposer.block_of(trial) == block.label]
        names = {number: best_name(rank) for rank, number in enumerate(_best(plan, own), start=1)}
        points = {trial.number: plan.space.point_of(trial.params) for trial in own}
        defaults = plan.defaults(block)
        number = next((n for n, p in points.items() if plan.space.canonical(p) == defaults), NO_TRIAL)
        if number in names:
            names[number] += f"{CONFIG_SEPARATOR}{DEFAULTS}"
        elif plan.study.confirm.defaults:
            names[number] = DEFAULTS
            points.setdefault(NO_TRIAL, block.whole({}))
        chosen += [Configuration(plan.label(points[n]), name, n, points[n]) for n, name in names.items()]
    return chosen


def _best(plan: StudyPlan, trials: list[FrozenTrial]) -> list[int]:
    """The best trials by the first objective; with several objectives, those of the Pareto front."""
    assert plan.study.confirm is not None
    found = [ranked_trial(plan, trial) for trial in trials if best_of(trial) is not None]
    chosen = best_first(front(found) if len(plan.study.objective) > 1 else found)
    return [trial.number for trial in chosen[: plan.study.confirm.top]]


class ConfirmStage(Stage):
    """The runs of a confirmation: each configuration with each seed, all epochs."""

    stage: ClassVar[StageName] = "confirm"
    noun: ClassVar[str] = "confirm run"

    def __init__(self, search: SearchStage) -> None:
        plan = search.plan
        super().__init__(
            plan, search.storage, search.tracker, search.folder, f"{plan.study.name}/{CONFIRM}", may_exist=True
        )
        assert plan.study.confirm is not None
        self._check_redraw()
        self.configurations = choose_configurations(search)
        self.seeds = plan.confirm_seeds
        self.wanted = {
            ConfirmRunKey(one.method, one.trial, seed).key: one for seed in self.seeds for one in self.configurations
        }

    def _check_redraw(self) -> None:
        """Runs with data of their own and runs on the same data do not go together.

        Raises:
            StudyError: the study has runs of the other kind.
        """
        before, now = self.study.user_attrs.get(REDRAWN, False), self.plan.redraws
        if before != now and self.study.get_trials(deepcopy=False):
            given = f"confirm.redraw: was {str(before).lower()}, is {str(now).lower()}"
            raise StudyError(f"{given}: the study has confirm runs; put it back, or give the study another name")

    def open(self) -> None:
        """Queue one trial per configuration and seed in Optuna. Runs of configurations no longer chosen are kept and
        tagged `earlier`.
        """
        self.checkpoints.remove_leftovers(self.study.get_trials(deepcopy=False), lambda _: True)
        self.tracker.inputs(PARENT, tested_inputs(self.plan))
        self.study.set_user_attr(REDRAWN, self.plan.redraws)
        if self.plan.redraws:
            self.tracker.tags(PARENT, {Tag.REDRAWN: "true"})
        before = wanted_runs(self.study)
        trials = self.study.get_trials(deepcopy=False)
        for trial in trials:
            run_key = confirm_run_key(trial)
            if self._name(run_key) != before.get(run_key.key, EARLIER) and trial.state != TrialState.WAITING:
                self.tracker.tags(f"{self.stage}/{trial.number}", {Tag.CONFIG: self._name(run_key)})
        self._say_without_modalities()
        self.study.set_user_attr(WANTED, {key: one.name for key, one in self.wanted.items()})
        known = {confirm_run_key(trial).key: trial for trial in trials}
        for key, one in self.wanted.items():
            if key not in known:
                method, number, seed = key.split("/")
                attributes = confirm_attributes(ConfirmRunKey(method, int(number), int(seed)), one.point)
                self.study.add_trial(optuna.trial.create_trial(state=TrialState.WAITING, user_attrs=attributes))
            elif known[key].state.is_finished():
                self.outcomes[ended_reason(known[key])] += 1

    def _say_without_modalities(self) -> None:
        """Tell the study's own run, once, the main metric on test of always answering one class, and which of the test
        samples lack modalities.
        """
        if WITHOUT_MODALITIES in self.study.user_attrs:
            return
        seen = centre_crop(self.plan.dataset, AugmentSettings(**self.plan.document["augment"]))
        value = value_without_modalities(seen, "test", self.plan.main_metric)
        told = {} if value is None else {Tag.WITHOUT_MODALITIES: json.dumps({"test": value})}
        if tags := told | presence_tags(seen):
            self.tracker.tags(PARENT, tags)
        self.study.set_user_attr(WITHOUT_MODALITIES, value)

    @property
    def dataset(self) -> MultimodalDataset:
        return self.plan.dataset

    @property
    def total(self) -> int:
        return max(len(self.wanted), self.finished)

    @property
    def remaining(self) -> int:
        return len(self._waiting())

    def scheduler(self) -> StudyScheduler:
        from dmr.studies.search.schedulers import make_scheduler

        return make_scheduler("none", Direction.MAX, 1, 1, 2)

    def _name(self, run_key: ConfirmRunKey) -> str:
        return self.wanted[run_key.key].name if run_key.key in self.wanted else EARLIER

    def _waiting(self) -> list[FrozenTrial]:
        trials = self.study.get_trials(deepcopy=False, states=[TrialState.WAITING])
        return [trial for trial in trials if confirm_run_key(trial).key in self.wanted]

    def _next(self) -> StartedTrial | None:
        trial = self._waiting()[0]
        self.storage.set_trial_state_values(trial._trial_id, TrialState.RUNNING)
        return self._again(trial)

    def _again(self, trial: FrozenTrial) -> StartedTrial:
        run_key = confirm_run_key(trial)
        tags = {Tag.TRIAL: str(run_key.trial), Tag.CONFIG: self._name(run_key)}
        return StartedTrial(trial, point_of_confirm_run(trial), run_key.seed, tags)
