"""The three hooks through which Ray Tune works for a study: where trials come from, what happens to them, when to stop.

Tune pickles these; they leave everything behind then, since Optuna's database is what a study goes on from.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray import tune
from ray.tune.search import Searcher

from dmr.studies.driver.progress_display import Screen
from dmr.studies.stages.stage import Bookkeeping
from dmr.studies.tracking.run_logging import Tested
from dmr.studies.trial_outcomes import Ending
from dmr.studies.workers.local_trial import HUNG, PAYLOAD, SYSTEM
from dmr.training import EpochReport

if TYPE_CHECKING:
    from dmr.studies.driver.run_study import Launch


SECONDS_BETWEEN_LOOKS = 5.0
FAILURE = "Failure # "  # begins each death of a trial's process in the file of Tune's
LOW_MEMORY = "node running low on memory"  # ray.exceptions.OutOfMemoryError
NODE_DIED = "its node has died"  # ray.exceptions.ActorDiedError


class _LeftBehind:
    def __getstate__(self) -> dict[str, Any]:
        return {}


class TrialSource(_LeftBehind, Searcher):
    """Suggests the ledger's next trial. A searcher of our own: Ray's OptunaSearch leaves trials running for ever after
    a NaN, a time budget or a kill, and stores a pruned trial as complete with its last value.

    Args:
        room: how many trials may run at a time on the nodes there are now; asked again as nodes come and go.
    """

    def __init__(self, ledger: Bookkeeping, room: Callable[[], int]) -> None:
        super().__init__()
        self.ledger, self.room = ledger, room
        self.known_room, self.asked = 0, -math.inf

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        record = None
        with self.ledger.guarded():
            if time.monotonic() - self.asked > SECONDS_BETWEEN_LOOKS:
                self.known_room, self.asked = self.room(), time.monotonic()
            if len(self.ledger.live) >= self.known_room:
                return None
            record = self.ledger.begin()
        if record is None:
            finished: dict[str, Any] = Searcher.FINISHED
            return finished if self.ledger.outbox.problem is None else None
        return {"number": record.number, "settings": record.settings, "block": record.block}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """The Bookkeeper is told as well, and knows the trial."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the ledger reads Optuna's database."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore."""


class Bookkeeper(_LeftBehind, tune.Callback):
    """Takes what trials report to the ledger. An exception here would end the study with a traceback; it is guarded."""

    def __init__(self, ledger: Bookkeeping, screen: Screen) -> None:
        self.ledger, self.screen = ledger, screen
        self.failed: dict[int, Ending] = {}

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        payload = json.loads(result[PAYLOAD])
        number = trial.config["number"]
        if "trouble" in payload:
            self.ledger.trouble = payload["trouble"]
        elif "tested" in payload:
            self.ledger.live[number].tested = Tested(**payload["tested"])
        elif "ending" in payload:
            self.failed[number] = Ending(**payload["ending"])
        else:
            system = payload.pop(SYSTEM, {})
            with self.ledger.guarded():
                self.ledger.epoch(number, EpochReport(**payload), system)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        number = trial.config["number"]
        record = self.ledger.live[number]
        ending = self.failed.pop(number, None)
        if ending is None:
            ending = Ending("completed" if record.epochs >= record.settings.train.epochs else "pruned")
        self._end(number, ending)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """The trial's process died more often than `retries` allows. Tune pickles only some kinds of errors; the text
        file has every death.
        """
        number = trial.config["number"]
        text = Path(trial.error_file).read_text(encoding="utf-8").rpartition(FAILURE)[2].partition("\n")[2]
        files = sorted(self.ledger.folder.run(self.ledger.stage, number).glob(f"*{HUNG}"))  # one a rank
        hung = "\n".join(file.read_text() for file in files if file.stat().st_size)
        if hung:
            ending = Ending("lost", "an epoch took longer than train.epoch_minutes", hung)
        else:
            ending = ending_of_death(text)
        self._end(number, ending)

    def _end(self, number: int, ending: Ending) -> None:
        """After trouble nothing more is written: the trial stays as it is, and goes on with `dmr resume`."""
        if self.ledger.trouble is None:
            with self.ledger.guarded():
                self.ledger.finish(number, ending)
            self.screen.trial_ended()


def ending_of_death(text: str) -> Ending:
    """How a trial ended whose process died for the last time, from what Ray says of it."""
    if LOW_MEMORY in text:
        return Ending("out_of_memory", "Ray killed its process when the node ran out of memory", text)
    return Ending("lost", "its node died" if NODE_DIED in text else "its process died", text)


class StudyStopper(_LeftBehind, tune.Stopper):
    """Stops all trials when the driver wants to stop."""

    def __init__(self, launch: Launch) -> None:
        self.launch = launch

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self.launch.should_stop()
