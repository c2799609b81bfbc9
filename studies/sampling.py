"""Where the next trial's point comes from: Optuna's samplers, seeded so that no generator has to survive a restart."""

from __future__ import annotations

import random
import warnings
from typing import Any

import optuna
from optuna.samplers import BaseSampler, CmaEsSampler, GPSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.trial import TrialState

from dmr.seeds import derive_seed
from studies.space import Space

TRIES, RANDOM_TRIES = 10, 1_000


def make_sampler(name: str, seed: int) -> BaseSampler:
    """A fresh Optuna sampler: `tpe`, `gp`, `cmaes`, `nsga2` or `random`. What they learn they read from the storage."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        if name == "tpe":
            return TPESampler(seed=seed)
        if name == "gp":
            return GPSampler(seed=seed)
        if name == "cmaes":
            return CmaEsSampler(seed=seed)
        if name == "nsga2":
            return NSGAIISampler(seed=seed)
        return RandomSampler(seed=seed)


class Proposer:
    """Asks an Optuna study for its next trial; no point comes twice.

    The sampler is made anew for each trial, seeded from the study's seed and the trial's number.
    """

    def __init__(self, study: optuna.Study, space: Space, sampler: str, seed: int) -> None:
        self.study, self.space, self.name, self.seed = study, space, sampler, seed
        self.finite = space.points()
        self.can_repeat = all(parameter.grid() is not None or parameter.when for parameter in space.parameters)
        if self.finite is not None and sampler == "grid":
            random.Random(derive_seed(seed, "grid")).shuffle(self.finite)

    def ask(self) -> tuple[optuna.Trial, dict[str, Any]] | None:
        """The next trial, RUNNING in the storage, and its point; None where every point of the space was tried."""
        trials = self.study.get_trials(deepcopy=False)
        waiting = any(trial.state == TrialState.WAITING for trial in trials)
        if not waiting and self.can_repeat:
            point = self._new_point(trials)
            if point is None:
                return None
            self.study.enqueue_trial(point)
        self.study.sampler = self._sampler(len(trials))
        trial = self.study.ask()
        return trial, self.space.suggest(trial)

    def complete(self, trial: optuna.trial.FrozenTrial) -> dict[str, Any]:
        """The point of a RUNNING trial of an earlier driver, which may have died before it had written all of it."""
        point = self.space.active(trial.params)
        if all(p.key in point or not p.active(point) for p in self.space.parameters):
            return point
        if "fixed_params" not in trial.system_attrs:
            copy = optuna.create_study(directions=self.study.directions, sampler=self._sampler(trial.number))
            copy.add_trials([t for t in self.study.get_trials(deepcopy=False) if t.number < trial.number])
            point = self.space.suggest(copy.ask())
            self.study._storage.set_trial_system_attr(trial._trial_id, "fixed_params", point)
        self.study.sampler = self._sampler(trial.number)
        return self.space.suggest(optuna.Trial(self.study, trial._trial_id))

    def _sampler(self, number: int, attempt: int = 0) -> BaseSampler:
        return make_sampler(self.name, derive_seed(self.seed, "sampler", number, attempt) % 2**32)

    def _new_point(self, trials: list[optuna.trial.FrozenTrial]) -> dict[str, Any] | None:
        """A point nobody had: the sampler's where it finds one on a copy of the study, else one at random."""
        tried = {self._key(trial.params) for trial in trials}
        left = None if self.finite is None else [point for point in self.finite if self._key(point) not in tried]
        if left is not None and (not left or self.name == "grid"):
            return left[0] if left else None
        copy = optuna.create_study(directions=self.study.directions)
        copy.add_trials(trials)
        for attempt in range(TRIES + RANDOM_TRIES):
            number = len(trials)
            seed = derive_seed(self.seed, "sampler", number, attempt) % 2**32
            copy.sampler = make_sampler(self.name if attempt < TRIES else "random", seed)
            point = self.space.suggest(copy.ask())
            if self._key(point) not in tried:
                return point
            if left is not None and attempt + 1 == TRIES:
                return random.Random(derive_seed(self.seed, "sampler", number)).choice(left)
        return None

    def _key(self, point: dict[str, Any]) -> tuple[tuple[str, str], ...]:
        """Equal for equal points, however their numbers were rounded."""
        return tuple(sorted((key, repr(value)) for key, value in self.space.canonical(point).items()))
