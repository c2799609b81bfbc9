"""What a stage knows of its trials."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import optuna
from optuna.trial import FrozenTrial

from dmr.analysis.results.record_names import BLOCK
from dmr.studies.storage.optuna_attributes import BestValues
from dmr.studies.storage.trial_files import StartFrom
from dmr.studies.tracking.run_logging import TrackedRun
from dmr.studies.trial_outcomes import Tested
from dmr.training import EpochReport, RunSettings


class BestTrial(NamedTuple):
    """The best trial so far, by the first objective."""

    number: int
    values: BestValues


class JournalEpoch(NamedTuple):
    """An epoch of a trial, and the best value of a metric until then."""

    trial: int
    epoch: int
    best: float


class StartedTrial(NamedTuple):
    """A trial that is RUNNING in Optuna, with its point, the seed of its training and tags of its run."""

    trial: FrozenTrial | optuna.Trial
    point: dict[str, Any]
    seed: int
    tags: dict[str, str]


@dataclass
class TrialRecord:
    """A trial that runs: what it is, the last epoch it reported and, where its stage has that, how it did on test."""

    number: int
    trial_id: int
    run: TrackedRun
    point: dict[str, Any]
    settings: RunSettings
    start: StartFrom | None = None
    report: EpochReport | None = None
    tested: Tested | None = None

    @property
    def key(self) -> str:
        return self.run.key

    @property
    def block(self) -> str | None:
        return self.point.get(BLOCK)

    @property
    def epochs(self) -> int:
        return 0 if self.report is None else self.report.epoch + 1
