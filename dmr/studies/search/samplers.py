"""Where the next trial's point comes from: Optuna's samplers, seeded so that no generator has to survive a restart."""

from __future__ import annotations

import copy
import random
import warnings
from collections.abc import Container, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import optuna
from optuna.samplers import BaseSampler, CmaEsSampler, GPSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.trial import FixedTrial, FrozenTrial, TrialState, create_trial

from dmr.analysis.results.record_names import BLOCK
from dmr.seeds import derive_seed
from dmr.studies.study_file.schema import RANDOM_START
from dmr.studies.study_file.search_blocks import SearchBlock, shares
from dmr.studies.study_file.search_space import Space

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.search_space import IntersectionSearchSpace
    from optuna.storages import BaseStorage

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


class DraftStorage:
    """Optuna's storage with one trial more, which is in memory alone: a sampler proposes it after the trials there are,
    and it is written at once, when all of it is known.
    """

    def __init__(self, storage: Any, trials: Sequence[FrozenTrial]) -> None:
        self.storage, self.trials = storage, trials
        self.draft = create_trial(state=TrialState.RUNNING)
        self.draft.number = trials[-1].number + 1 if trials else 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.storage, name)

    def get_trial(self, trial_id: int) -> FrozenTrial:
        return self.draft

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        found = [trial for trial in (*self.trials, self.draft) if states is None or trial.state in states]
        return copy.deepcopy(found) if deepcopy else found

    def set_trial_param(self, trial_id: int, name: str, value: float, distribution: BaseDistribution) -> None:
        self.draft.params[name] = distribution.to_external_repr(value)
        self.draft.distributions[name] = distribution

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        self.draft.system_attrs[key] = value


class Proposal(NamedTuple):
    """A point, and what its sampler keeps with the trial, such as its generation."""

    point: dict[str, Any]
    memory: dict[str, Any]


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
        self.can_repeat = [
            all(parameter.grid() is not None or parameter.when for parameter in block.space.parameters)
            for block in self.blocks
        ]
        self.has_blocks = self.blocks[0].label is not None
        self.search_spaces: dict[int, IntersectionSearchSpace] = {}  # of each block, where its sampler reads one
        for points in self.finite:
            if points is not None and sampler == "grid":
                random.Random(derive_seed(seed, "grid")).shuffle(points)

    def ask(self) -> tuple[optuna.Trial, dict[str, Any]] | None:
        """The next trial, RUNNING in the storage, and its point; None where every point of the space was tried."""
        trials = self.study.get_trials(deepcopy=False)
        if any(trial.state == TrialState.WAITING for trial in trials):
            # with blocks its point is drawn already
            self.study.sampler = make_sampler("random", 0) if self.has_blocks else self._sampler(len(trials))
            trial = self.study.ask()
            return trial, self.space.suggest(trial)
        proposal = self._propose(trials)
        if proposal is None:
            return None
        drawn = FixedTrial(self.space.optuna_params(proposal.point))
        point = self.space.suggest(drawn)
        whole = create_trial(
            state=TrialState.RUNNING,
            params=drawn.params,
            distributions=drawn.distributions,
            system_attrs=proposal.memory,
        )
        trial_id = self.study._storage.create_new_trial(self.study._study_id, whole)
        return optuna.Trial(self.study, trial_id), point

    def enqueue(self, point: Mapping[str, Any]) -> None:
        """Queue a point for the next trial that has none."""
        fixed = {"fixed_params": self.space.optuna_params(point)}
        self.study.add_trial(create_trial(state=TrialState.WAITING, system_attrs=fixed))

    def complete(self, trial: FrozenTrial) -> dict[str, Any]:
        """The point of a RUNNING trial of an earlier driver, which may have died before it had written all of it."""
        point = self.space.point_of(trial.params)
        if all(p.key in point or not p.active(point) for p in self.space.parameters):
            return point
        if "fixed_params" not in trial.system_attrs:  # of an earlier version
            before = [t for t in self.study.get_trials(deepcopy=False) if t.number < trial.number]
            drawn = self._draw(0, before, self._sampler(trial.number)).point
            fixed = self.space.optuna_params(drawn)
            self.study._storage.set_trial_system_attr(trial._trial_id, "fixed_params", fixed)
        self.study.sampler = self._sampler(trial.number)
        return self.space.suggest(optuna.Trial(self.study, trial._trial_id))

    @staticmethod
    def block_of(trial: FrozenTrial) -> str | None:
        """The block of a trial."""
        given: Mapping[str, Any] = trial.system_attrs.get("fixed_params", {})
        return trial.params.get(BLOCK, given.get(BLOCK))

    def _sampler(self, number: int, attempt: int = 0, name: str | None = None) -> BaseSampler:
        return make_sampler(name or self.name, derive_seed(self.seed, "sampler", number, attempt) % 2**32)

    def _propose(self, trials: list[FrozenTrial]) -> Proposal | None:
        """The next trial's point: of the block with the fewest trials."""
        if not self.has_blocks:
            return self._new_point(0, trials, len(trials))
        trial_blocks = [self.block_of(trial) for trial in trials]
        order = sorted(range(len(self.blocks)), key=lambda n: (trial_blocks.count(self.blocks[n].label), n))
        allowed = shares(self.budget, len(self.blocks))
        for n in order:
            block = self.blocks[n]
            if trial_blocks.count(block.label) >= allowed[n]:
                continue
            own = [
                self._alone(trial, f"{block.label}/")
                for trial, label in zip(trials, trial_blocks, strict=True)
                if label == block.label
            ]
            proposal = self._new_point(n, own, len(trials))
            if proposal is not None:
                return proposal._replace(point=block.whole(proposal.point))
        return None

    @staticmethod
    def _alone(trial: FrozenTrial, prefix: str) -> FrozenTrial:
        """A trial as it would be in a study of its block alone, whose keys have no `prefix`."""
        alone = copy.copy(trial)
        for name in ("params", "distributions"):
            values = getattr(trial, name).items()
            setattr(alone, name, {key.removeprefix(prefix): v for key, v in values if key.startswith(prefix)})
        return alone

    def _new_point(self, n: int, trials: list[FrozenTrial], number: int) -> Proposal | None:
        """A point of the n-th block that none of its `trials` had: the sampler's where it finds one, else one at
        random.
        """
        if not self.can_repeat[n]:
            return self._draw(n, trials, self._sampler(number))
        space, finite = self.blocks[n].space, self.finite[n]

        def key(point: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
            """Equal for equal points, however their numbers were rounded."""
            return tuple(sorted((key, repr(value)) for key, value in space.canonical(point).items()))

        tried = {key(trial.params) for trial in trials}
        left = None if finite is None else [point for point in finite if key(point) not in tried]
        if left is not None and (not left or self.name == "grid"):
            return Proposal(left[0], {}) if left else None
        for attempt in range(TRIES + RANDOM_TRIES):
            proposal = self._draw(n, trials, self._sampler(number, attempt, None if attempt < TRIES else "random"))
            if key(proposal.point) not in tried:
                return proposal
            if left is not None and attempt + 1 == TRIES:
                return Proposal(random.Random(derive_seed(self.seed, "sampler", number)).choice(left), {})
        return None

    def _draw(self, n: int, trials: Sequence[FrozenTrial], sampler: BaseSampler) -> Proposal:
        """What a sampler proposes after these trials of the n-th block."""
        if isinstance(sampler, TPESampler):  # or each sampler would compare all trials with each other once more
            sampler._search_space = self.search_spaces.setdefault(n, sampler._search_space)
        study = optuna.create_study(directions=self.study.directions) if self.has_blocks else self.study
        storage = DraftStorage(study._storage, trials)
        with_draft = optuna.Study(study.study_name, cast("BaseStorage", storage), sampler)
        point = self.blocks[n].space.suggest(optuna.Trial(with_draft, storage.draft._trial_id))
        return Proposal(point, storage.draft.system_attrs)
