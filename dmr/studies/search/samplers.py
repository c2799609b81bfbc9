"""Where the next trial's point comes from: Optuna's samplers, seeded so that no generator has to survive a restart."""

from __future__ import annotations

import copy
import random
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.samplers import BaseSampler, CmaEsSampler, GPSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from dmr.analysis.results.record_names import BLOCK
from dmr.seeds import derive_seed
from dmr.studies.study_file.schema import RANDOM_START
from dmr.studies.study_file.search_blocks import SearchBlock, shares
from dmr.studies.study_file.search_space import Space

TRIES, RANDOM_TRIES = 10, 1_000


def make_sampler(name: str, seed: int) -> BaseSampler:
    """A fresh Optuna sampler: `tpe`, `gp`, `cmaes`, `nsga2` or `random`. What they learn they read from the storage."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        if name == "tpe":
            return TPESampler(seed=seed, n_startup_trials=RANDOM_START[name])
        if name == "gp":
            return GPSampler(seed=seed, n_startup_trials=RANDOM_START[name])
        if name == "cmaes":
            return CmaEsSampler(seed=seed, n_startup_trials=RANDOM_START[name])
        if name == "nsga2":
            return NSGAIISampler(seed=seed, population_size=RANDOM_START[name])
        return RandomSampler(seed=seed)


class Proposer:
    """Asks an Optuna study for its next trial; no point comes twice.

    The sampler is made anew for each trial, seeded from the study's seed and the trial's number. Where the search has
    blocks they take turns, up to their share of the budget, and each block's sampler sees the trials of its block only.
    """

    def __init__(
        self,
        study: optuna.Study,
        space: Space,
        sampler: str,
        seed: int,
        blocks: Sequence[SearchBlock] = (),
        budget: int = 0,
    ) -> None:
        self.study, self.space, self.name, self.seed, self.budget = study, space, sampler, seed, budget
        self.blocks = tuple(blocks) or (SearchBlock(None, "search", {}, space),)
        self.finite = [block.space.points() for block in self.blocks]
        self.has_blocks = self.blocks[0].label is not None
        self.can_repeat = all(parameter.grid() is not None or parameter.when for parameter in space.parameters)
        for points in self.finite:
            if points is not None and sampler == "grid":
                random.Random(derive_seed(seed, "grid")).shuffle(points)

    def ask(self) -> tuple[optuna.Trial, dict[str, Any]] | None:
        """The next trial, RUNNING in the storage, and its point; None where every point of the space was tried."""
        trials = self.study.get_trials(deepcopy=False)
        waiting = any(trial.state == TrialState.WAITING for trial in trials)
        if not waiting and (self.can_repeat or self.has_blocks):
            proposed = self._propose(trials)
            if proposed is None:
                return None
            self.enqueue(*proposed)
        # with blocks the point is already drawn, and what its sampler stored with it must not be overwritten
        self.study.sampler = make_sampler("random", 0) if self.has_blocks else self._sampler(len(trials))
        trial = self.study.ask()
        return trial, self.space.suggest(trial)

    def enqueue(self, point: Mapping[str, Any], memory: Mapping[str, Any] | None = None) -> None:
        """Queue a point for the next trial that has none.

        Args:
            memory: what a sampler keeps with a trial, such as its generation.
        """
        attributes = {"fixed_params": self.space.optuna_params(point), **(memory or {})}
        self.study.add_trial(optuna.trial.create_trial(state=TrialState.WAITING, system_attrs=attributes))

    def complete(self, trial: FrozenTrial) -> dict[str, Any]:
        """The point of a RUNNING trial of an earlier driver, which may have died before it had written all of it."""
        point = self.space.point_of(trial.params)
        if all(p.key in point or not p.active(point) for p in self.space.parameters):
            return point
        if "fixed_params" not in trial.system_attrs:
            study = optuna.create_study(directions=self.study.directions, sampler=self._sampler(trial.number))
            study.add_trials([t for t in self.study.get_trials(deepcopy=False) if t.number < trial.number])
            point = self.space.suggest(study.ask())
            fixed = self.space.optuna_params(point)
            self.study._storage.set_trial_system_attr(trial._trial_id, "fixed_params", fixed)
        self.study.sampler = self._sampler(trial.number)
        return self.space.suggest(optuna.Trial(self.study, trial._trial_id))

    @staticmethod
    def block_of(trial: FrozenTrial) -> str | None:
        """The block of a trial."""
        given: Mapping[str, Any] = trial.system_attrs.get("fixed_params", {})
        return trial.params.get(BLOCK, given.get(BLOCK))

    def _sampler(self, number: int, attempt: int = 0) -> BaseSampler:
        return make_sampler(self.name, derive_seed(self.seed, "sampler", number, attempt) % 2**32)

    def _propose(self, trials: list[FrozenTrial]) -> tuple[dict[str, Any], dict[str, Any]] | None:
        """The next trial's point and what its sampler remembers with it: of the block with the fewest trials."""
        trial_blocks = [self.block_of(trial) for trial in trials]
        order = sorted(range(len(self.blocks)), key=lambda n: (trial_blocks.count(self.blocks[n].label), n))
        allowed = shares(self.budget, len(self.blocks))
        for n in order:
            block = self.blocks[n]
            if self.has_blocks and trial_blocks.count(block.label) >= allowed[n]:
                continue
            own = [
                self._alone(trial, block)
                for trial, label in zip(trials, trial_blocks, strict=True)
                if label == block.label
            ]
            proposed = self._new_point(block.space, self.finite[n], own, len(trials))
            if proposed is not None:
                return block.whole(proposed[0]), proposed[1] if self.has_blocks else {}
        return None

    def _alone(self, trial: FrozenTrial, block: SearchBlock) -> FrozenTrial:
        """A trial as it would be in a study of its block alone."""
        if block.label is None:
            return trial
        alone, prefix = copy.copy(trial), f"{block.label}/"
        for name in ("params", "distributions"):
            values = getattr(trial, name).items()
            setattr(alone, name, {key.removeprefix(prefix): v for key, v in values if key.startswith(prefix)})
        return alone

    def _new_point(
        self, space: Space, finite: list[dict[str, Any]] | None, trials: list[FrozenTrial], number: int
    ) -> tuple[dict[str, Any], dict[str, Any]] | None:
        """A point nobody had: the sampler's where it finds one on a copy of the study, else one at random."""

        def key(point: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
            """Equal for equal points, however their numbers were rounded."""
            return tuple(sorted((key, repr(value)) for key, value in space.canonical(point).items()))

        tried = {key(trial.params) for trial in trials}
        left = None if finite is None else [point for point in finite if key(point) not in tried]
        if left is not None and (not left or self.name == "grid"):
            return (left[0], {}) if left else None
        study = optuna.create_study(directions=self.study.directions)
        study.add_trials(trials)
        for attempt in range(TRIES + RANDOM_TRIES):
            seed = derive_seed(self.seed, "sampler", number, attempt) % 2**32
            study.sampler = make_sampler(self.name if attempt < TRIES else "random", seed)
            trial = study.ask()
            point = space.suggest(trial)
            if key(point) not in tried:
                return point, study._storage.get_trial(trial._trial_id).system_attrs
            if left is not None and attempt + 1 == TRIES:
                return random.Random(derive_seed(self.seed, "sampler", number)).choice(left), {}
        return None
