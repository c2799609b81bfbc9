"""The checkpoints of a stage's trials, as its driver sees them: in a folder that every process writes, or as objects
that the processes of trials write in the background.
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import torch
from optuna.trial import FrozenTrial

from dmr.checkpoints import load_checkpoint
from dmr.object_storage.store import answered
from dmr.object_storage.writer import StoreWriter
from dmr.studies.storage.optuna_attributes import BEGUN, EPOCHS
from dmr.studies.storage.trial_files import (
    BEST,
    LAST,
    CheckpointObject,
    StartFrom,
    best_checkpoint,
    checkpoint_object,
    checkpoint_objects,
    lost_checkpoints,
    newest_checkpoints,
    remove_checkpoints,
)
from dmr.training import EpochReport

log = logging.getLogger("dmr")

ARRIVES_WITHIN = 60.0  # seconds
LOOK_EVERY = 0.05
KINDS = ("last", "best")


class TrialCheckpoints:
    """Those in a folder: what a process has reported is there."""

    def __init__(self, run: Callable[[int], Path]) -> None:
        """Args:
        run: the folder of a trial of this number.
        """
        self.run = run

    def begin(self, number: int, since: int | None, epochs: int) -> StartFrom | None:
        """What the process of a trial is told, which begins, or goes on.

        Args:
            since: the lease under which it was begun; None where it begins now.
            epochs: how many are in the journal.
        """
        return None

    def again(self, number: int, epochs: int) -> StartFrom | None:
        """What the process of a trial is told that is started again."""
        return None

    def lost(self, number: int) -> str | None:
        """What a trial that has ended an epoch lacks to go on, for people; None where it lacks nothing."""
        lost = lost_checkpoints(self.run(number))
        return str(lost[0]) if lost else None

    def uploaded(self, number: int, names: Iterable[str], epochs: int) -> None:
        """A process has written objects of these names before its last report."""

    def wait_for(self, number: int, report: EpochReport) -> None:
        """The checkpoints of a trial that is stopped now are there when this returns, if they ever come."""

    def chosen(self, number: int, best_epoch: int) -> str:
        """Where the chosen network is, for people."""
        return str(self.run(number) / BEST)

    def report(self, number: int, report: EpochReport | None) -> EpochReport | None:
        """How far a trial came whose processes were ended: its last report, or that of its last checkpoint."""
        if report is not None:
            return report
        return _report_in(self.run(number) / LAST)

    def remove(self, number: int, keep_best: bool, epochs: int) -> None:
        """Remove what a trial that has ended with so many epochs leaves behind."""
        remove_checkpoints(self.run(number), keep_best)

    def remove_leftovers(self, trials: Iterable[FrozenTrial], keeps: Callable[[int], bool]) -> None:
        """The same for what earlier drivers did not come to.

        Args:
            trials: all of the stage.
            keeps: whether the best of one that has ended stays.
        """
        for trial in trials:
            if trial.state.is_finished():
                self.remove(trial.number, keeps(trial.number), trial.user_attrs.get(EPOCHS, 0))


class TrialObjects(TrialCheckpoints):
    """Those in object storage, each written once and named after its epoch.

    A process writes without waiting, so what it has reported may not be there yet, and what is there may not be in the
    log yet. An object goes only when the log, as it was written, has a later one to go on from.
    """

    def __init__(self, run: Callable[[int], Path], writer: StoreWriter) -> None:
        super().__init__(run)
        self.writer = writer
        self._since: dict[int, int] = {}
        self._chosen: dict[int, CheckpointObject] = {}
        self._known: defaultdict[int, list[CheckpointObject]] = defaultdict(list)

    def begin(self, number: int, since: int | None, epochs: int) -> StartFrom:
        self._since[number] = self.writer.lease.number if since is None else since
        if since is not None:
            self._known[number] = self._objects(number)
        return StartFrom(self._since[number], None if since is None else epochs)

    def again(self, number: int, epochs: int) -> StartFrom:
        self._known[number] = self._objects(number)
        return StartFrom(self._since[number], epochs)

    def lost(self, number: int) -> str | None:
        found = newest_checkpoints(self._known[number], self._since[number], 10**9)
        return None if found else f"{self.writer.store.url}/{self.run(number).relative_to(self.writer.folder)}/{LAST}"

    def uploaded(self, number: int, names: Iterable[str], epochs: int) -> None:
        known = self._known[number]
        known += checkpoint_objects(names)
        kept = newest_checkpoints(known, self._since[number], epochs)
        old = [one for one in known if kept and one not in kept and one.epoch <= kept[0].epoch]
        if old:
            self._known[number] = [one for one in known if one not in old]
            self.writer.delete(self._key(number, one) for one in old)

    def wait_for(self, number: int, report: EpochReport) -> None:
        last = CheckpointObject("last", self._since[number], report.epoch)
        until = time.monotonic() + ARRIVES_WITHIN
        for key in (self._key(number, self._best(number, report.best_epoch)), self._key(number, last)):
            while not answered(partial(self.writer.store.has, key)):
                if time.monotonic() > until:
                    log.warning("%s/%s: did not come from the process that trained it", self.writer.store.url, key)
                    return
                time.sleep(LOOK_EVERY)

    def chosen(self, number: int, best_epoch: int) -> str:
        self._chosen[number] = self._best(number, best_epoch)
        return f"{self.writer.store.url}/{self._key(number, self._best(number, best_epoch))}"

    def report(self, number: int, report: EpochReport | None) -> EpochReport | None:
        found = self._objects(number)
        if report is not None and self._best(number, report.best_epoch) in found:
            return report
        newest = newest_checkpoints(found, self._since[number], 10**9 if report is None else report.epoch)
        if not newest:
            return None
        file = self.run(number) / newest[0].name
        answered(partial(self.writer.fetch, file))
        try:
            return _report_in(file)
        finally:
            file.unlink(missing_ok=True)

    def remove(self, number: int, keep_best: bool, epochs: int) -> None:
        super().remove(number, keep_best, epochs)
        chosen, found = self._chosen.get(number), {*self._known.pop(number, ())}
        if number in self._since:  # what was written since its last report has no message
            first = max((one.epoch for one in found if one.kind == "last"), default=0)
            found |= {CheckpointObject(kind, self._since[number], e) for e in range(first, epochs) for kind in KINDS}
        if chosen is not None:
            found.add(chosen)
        self._delete(number, found, chosen if keep_best else None)

    def remove_leftovers(self, trials: Iterable[FrozenTrial], keeps: Callable[[int], bool]) -> None:
        by_number, found = {trial.number: trial for trial in trials}, defaultdict(list)
        stage = self.run(0).parent
        for key in answered(partial(self.writer.keys, stage)):
            run = (self.writer.folder / key).parent
            if (one := checkpoint_object(key)) is not None and run.parent == stage and run.name.isdecimal():
                found[int(run.name)].append(one)
        for number, objects in found.items():
            trial = by_number.get(number)
            if trial is None:  # its beginning was not written
                self._delete(number, objects, None)
            elif not trial.state.is_finished():
                self._delete(number, [one for one in objects if one.since != trial.user_attrs.get(BEGUN)], None)
            elif (best := best_checkpoint(objects, trial.user_attrs.get(EPOCHS, 0))) is None or not keeps(number):
                self._delete(number, objects, None)
            else:
                self._chosen[number] = best
                self._delete(number, objects, best)

    def _delete(self, number: int, found: Iterable[CheckpointObject], kept: CheckpointObject | None) -> None:
        self.writer.delete(self._key(number, one) for one in found if one != kept)

    def _objects(self, number: int) -> list[CheckpointObject]:
        return checkpoint_objects(answered(partial(self.writer.keys, self.run(number))))

    def _best(self, number: int, best_epoch: int) -> CheckpointObject:
        return CheckpointObject("best", self._since[number], best_epoch)

    def _key(self, number: int, one: CheckpointObject) -> str:
        return (self.run(number) / one.name).relative_to(self.writer.folder).as_posix()


def _report_in(file: Path) -> EpochReport | None:
    state = load_checkpoint(file, torch.device("cpu"))
    return None if state is None else EpochReport(**state["report"])
