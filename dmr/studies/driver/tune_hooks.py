"""The three hooks through which Ray Tune works for a study: where trials come from, what happens to them, when to stop.

Tune pickles these; they leave everything behind then, since Optuna's database is what a study goes on from.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.search import Searcher

from dmr.studies.driver.node_requests import note_request
from dmr.studies.driver.progress_display import Screen
from dmr.studies.driver.storage_visibility import texts, texts_elsewhere
from dmr.studies.stages.stage import Stage
from dmr.studies.storage.trial_files import HUNG
from dmr.studies.trial_messages import (
    PAYLOAD,
    EpochMessage,
    FailedMessage,
    RequestMessage,
    StorageMessage,
    TestedMessage,
    decode,
)
from dmr.studies.trial_outcomes import TrialOutcome

SECONDS_BETWEEN_LOOKS = 5.0
FAILURE = "Failure # "  # begins each death in Tune's error file of a trial
LOW_MEMORY = "node running low on memory"  # ray.exceptions.OutOfMemoryError
NOT_IMPORTED = re.compile(r"No module named '([\w.]+)'")
NODE_DIED = "its node has died"  # ray.exceptions.ActorDiedError


class _LeftBehind:
    """Pickled without its state."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class TrialSource(_LeftBehind, Searcher):
    """Suggests the stage's next trial. A searcher of our own: Ray's OptunaSearch leaves trials running for ever after
    a NaN, a time budget or a kill, and stores a pruned trial as complete with its last value.

    Args:
        capacity: how many trials may run at a time on the nodes there are now; asked again as nodes come and go.
        should_stop: whether the study stops. Asked here as well, since Tune asks nothing else for 10 minutes where no
            trial runs and none begins.
    """

    def __init__(self, stage: Stage, capacity: Callable[[], int], should_stop: Callable[[], bool]) -> None:
        super().__init__()
        self.stage, self.capacity, self.should_stop = stage, capacity, should_stop
        self.known_capacity, self.asked = 0, -math.inf

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        record, full = None, False
        with self.stage.guarded():
            if time.monotonic() - self.asked > SECONDS_BETWEEN_LOOKS:
                self.known_capacity, self.asked = self.capacity(), time.monotonic()
            full = len(self.stage.live) >= self.known_capacity
            if not full:
                record = self.stage.begin()
        if record is None:
            finished: dict[str, Any] = Searcher.FINISHED
            return None if (full or self.stage.waits) and not self.should_stop() else finished
        return {"number": record.number, "settings": record.settings, "block": record.block, "start": record.start}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Nothing to do: `TuneCallback` ends the trial."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the stage reads Optuna's database."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore."""


class TuneCallback(_LeftBehind, tune.Callback):
    """Takes what trials report to the stage. An exception here would end the study with a traceback; it is guarded."""

    def __init__(self, stage: Stage, screen: Screen) -> None:
        self.stage, self.screen = stage, screen
        self.failed: dict[int, TrialOutcome] = {}

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        number = trial.config["number"]
        match decode(result[PAYLOAD]):
            case EpochMessage(report, system, uploaded):
                with self.stage.guarded():
                    self.stage.epoch(number, report, system, uploaded)
            case TestedMessage(tested):
                self.stage.tested(number, tested)
            case FailedMessage(outcome):
                self.failed[number] = outcome
            case RequestMessage(requester):
                with self.stage.guarded():
                    note_request(self.stage.folder.groups(self.stage.stage), number, requester)
            case StorageMessage(error):
                self.stage.stop(error)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        number = trial.config["number"]
        record = self.stage.live[number]
        outcome = self.failed.pop(number, None)
        if outcome is None:
            outcome = TrialOutcome("completed" if record.epochs >= record.settings.train.epochs else "pruned")
        self._end(number, outcome)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """The trial's process died more often than `retries` allows. Tune pickles only some kinds of errors; the text
        file has every death.
        """
        number, text = trial.config["number"], _last_death(trial)
        if self._cannot_import(text):
            return
        where = (self.stage.folder, self.stage.stage, number, HUNG)
        found = texts(*where)
        if not found and self.stage.folder.objects is not None and self._is_watched(number):
            found = texts_elsewhere(*where)
        if hung := "\n".join(found):
            outcome = TrialOutcome("lost", "an epoch took longer than train.epoch_minutes", hung)
        else:
            outcome = outcome_of_death(text)
        self._end(number, outcome)

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """The trial's process died and is to be started again; where it cannot import the trial, no other one can."""
        number = trial.config["number"]
        with self.stage.guarded():
            trial.config["start"] = self.stage.checkpoints.again(number, self.stage.live[number].epochs)
        self._cannot_import(_last_death(trial))

    def _is_watched(self, number: int) -> bool:
        return self.stage.live[number].settings.train.epoch_minutes is not None

    def _cannot_import(self, text: str) -> bool:
        found = NOT_IMPORTED.search(text)
        if found is not None:
            self.stage.stop(
                f"a worker cannot import {found[1]}: the process that trains needs it, too; install it on every node, "
                "or put it into the directory in which you run dmr"
            )
        return found is not None

    def _end(self, number: int, outcome: TrialOutcome) -> None:
        """Once the stage has an error nothing is written: the trial stays as it is, for `dmr resume` to go on with."""
        if self.stage.error is None:
            with self.stage.guarded():
                self.stage.finish(number, outcome)
            self.screen.trial_ended()


def _last_death(trial: Any) -> str:
    """What Ray says of the last death of a trial's process."""
    return Path(trial.error_file).read_text(encoding="utf-8").rpartition(FAILURE)[2].partition("\n")[2]


def outcome_of_death(text: str) -> TrialOutcome:
    """How a trial ended whose process died for the last time, from what Ray says of it."""
    if LOW_MEMORY in text:
        return TrialOutcome("out_of_memory", "Ray killed its process when the node ran out of memory", text)
    return TrialOutcome("lost", "its node died" if NODE_DIED in text else "its process died", text)


class StudyStopper(_LeftBehind, tune.Stopper):
    """Stops all trials when the driver wants to stop."""

    def __init__(self, should_stop: Callable[[], bool]) -> None:
        self.should_stop = should_stop

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self.should_stop()
