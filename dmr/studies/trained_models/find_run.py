"""Trained networks on disk: the run of an id, the winner of a study, and what each was trained with."""

from __future__ import annotations

import json
import logging
import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from optuna.trial import FrozenTrial, TrialState

from dmr.direction import Direction
from dmr.studies.errors import StudyError
from dmr.studies.search.checkpoint_retention import CheckpointRetention
from dmr.studies.search.ranking import Ranked, best_first, ranked
from dmr.studies.search.samplers import Proposer
from dmr.studies.storage.locations import Storage
from dmr.studies.storage.optuna_attributes import (
    CONFIRM,
    EPOCHS,
    best_of,
    confirm_run_key,
    objectives_of,
    point_of_confirm_run,
)
from dmr.studies.storage.optuna_storage import load_confirmation, load_search
from dmr.studies.storage.study_folder import FolderRenamed, StageName, StudyFolder
from dmr.studies.storage.study_objects import listed_folders
from dmr.studies.storage.trained_data import changed_data
from dmr.studies.study_file.plan import StudyPlan, make_plan
from dmr.studies.tracking.tracker import PARENT
from dmr.training import RunSettings

log = logging.getLogger("dmr")


@dataclass(frozen=True)
class TrainedRun:
    """A run whose checkpoint may be used.

    Attributes:
        run_id: in MLflow; None where it is not there yet.
        label: for people: `digits trial 3`.
    """

    folder: StudyFolder
    plan: StudyPlan
    stage: Literal["search", "confirm", "train"]
    label: str
    run_id: str | None
    settings: RunSettings
    checkpoint: Path

    def warn_of_changed_data(self) -> None:
        """Log a line for everything in which the data are not those that it was trained with any more."""
        if self.folder.data_file.exists():
            for line in changed_data(self.folder, self.plan.data_digests, self.plan.data_source):
                log.warning("%s was trained with other data: %s", self.label, line)


def find_run(run_id: str, storage: Storage) -> TrainedRun:
    """The run that MLflow knows by this id, found by the journals of the studies below `storage`.

    Raises:
        StudyError: no study has it, or it is none that has been trained.
    """
    renamed: StudyError | None = None
    for folder in _folders_in(storage):
        folder.refresh()
        key = next((key for key, known in _runs(folder.journal, f'"id":"{run_id}"') if known == run_id), None)
        if key is not None:
            try:
                return _run_of(folder, key, run_id)
            except FolderRenamed as error:  # such as a copy beside the study
                renamed = error
    raise renamed or StudyError(
        f"run {run_id}: no study in {storage} has it; --storage says where studies lie, and the column `run` of "
        "`dmr table` has the ids"
    )


def _folders_in(storage: Storage) -> list[StudyFolder]:
    """The folders of studies and, below them, of `dmr train`."""
    if isinstance(storage, str):
        return [StudyFolder(where, name, found) for where, name, found in listed_folders(storage)]
    journals = sorted([*storage.glob("*/journal.jsonl"), *storage.glob("*/*/journal.jsonl")])
    return [StudyFolder(journal.parent.parent, journal.parent.name) for journal in journals]


def find_winner(folder: StudyFolder) -> TrainedRun:
    """The best trial of a study by its first objective on val or, where that was confirmed, the best of its confirm
    runs, again by val.

    Raises:
        StudyError: there is no such study, or no trial of it has succeeded.
    """
    if not folder.exists and folder.trained():
        raise StudyError(f"{folder.name}: only `dmr train` has run here; name the run: --run RUN_ID")
    document = folder.checked_document()
    sign = Direction(document["objective"][0]["mode"]).sign
    best = _best(load_search(folder).get_trials(deepcopy=False), sign)
    if best is None:
        raise StudyError(f"{folder.name}: no trial has succeeded")
    runs = [run for run in _confirm_runs(folder) if confirm_run_key(run).trial == best]
    confirmed = _best([run for run in runs if run.state == TrialState.COMPLETE], sign)
    key = f"search/{best}" if confirmed is None else f"confirm/{confirmed}"
    ids = [known for other, known in _runs(folder.journal, f'"op":"run","key":"{key}"') if other == key]
    return _run_of(folder, key, ids[-1] if ids else None)  # a store that lost the run has another one now


def _best(trials: list[FrozenTrial], sign: float) -> int | None:
    """The number of the best trial; None where none has succeeded."""
    found = [Ranked(t.number, (sign * best.objective,)) for t in trials if (best := best_of(t)) is not None]
    return best_first(found)[0].number if found else None


def _confirm_runs(folder: StudyFolder) -> list[FrozenTrial]:
    study = load_confirmation(folder)
    return [] if study is None else study.get_trials(deepcopy=False)


def _run_of(folder: StudyFolder, key: str, run_id: str | None) -> TrainedRun:
    if key == PARENT:
        raise StudyError(f"run {run_id}: this is study {folder.name!r} itself; give the run of a trial")
    if not folder.exists:
        raise StudyError(f"{folder.place}: there is no study.yaml: an earlier version has trained this run")
    document = folder.document_of_any_name() if key == "train" else folder.document()
    plan = make_plan(document, folder.place_of(folder.study_file))
    name = plan.study.name
    if key == "train":
        settings = plan.run_settings({}, plan.study.seed)
        checkpoint = folder.checkpoint(folder.path, settings.train.epochs)
        if not checkpoint.exists():
            where = folder.place_of(checkpoint)
            raise StudyError(f"{name} train: {where}: not there: no epoch has ended, or it was deleted")
        return TrainedRun(folder, plan, "train", f"{name} train", run_id, settings, checkpoint)
    number = int(key.partition("/")[2])
    stage: StageName = "confirm" if key.startswith(f"{CONFIRM}/") else "search"
    found = load_search(folder).get_trials(deepcopy=False) if stage == "search" else _confirm_runs(folder)
    trial = next((trial for trial in found if trial.number == number), None)
    if trial is None:
        raise StudyError(f"run {run_id}: Optuna's storage has no {stage} trial {number} of study {name!r}")
    checkpoint = folder.checkpoint(folder.run(stage, number), trial.user_attrs.get(EPOCHS, 0))
    if stage == "search":
        label, seed, point = f"{name} trial {number}", plan.study.seed, plan.space.point_of(trial.params)
    else:
        label, seed, point = f"{name} confirm run {number}", confirm_run_key(trial).seed, point_of_confirm_run(trial)
    if not checkpoint.exists():
        raise StudyError(f"{label}: {_why_missing(plan, stage, found, trial, folder.place_of(checkpoint))}")
    return TrainedRun(folder, plan, stage, label, run_id, plan.run_settings(point, seed), checkpoint)


def _why_missing(
    plan: StudyPlan, stage: StageName, trials: list[FrozenTrial], trial: FrozenTrial, checkpoint: str
) -> str:
    """Why a trial or confirm run has no checkpoint.

    Args:
        trials: all of its stage.
    """
    keep = plan.study.checkpoints.keep if stage == "search" else None  # confirm runs keep theirs
    if not trial.state.is_finished():
        return f"{checkpoint}: not there: it has not ended"
    if best_of(trial) is None:
        kept = ", and checkpoints of failed trials are not kept" if stage == "search" else f": {checkpoint}: not there"
        return f"it failed{kept}"
    if keep is not None and not _keeps(plan, trials, trial.number):
        return f"its checkpoint was removed: only the best {keep} (of each block) keep theirs (`checkpoints.keep`)"
    smaller = "" if keep is None else ", or removed when `checkpoints.keep` was smaller"
    return f"{checkpoint}: not there any more: it was deleted by hand{smaller}"


def _keeps(plan: StudyPlan, trials: list[FrozenTrial], number: int) -> bool:
    """Whether a search keeps the checkpoint of this trial, as far as its trials have come."""
    retention = CheckpointRetention(plan.study.checkpoints.keep)
    defaults = [plan.defaults(block) for block in plan.blocks]
    for trial in trials:
        if trial.state.is_finished() and best_of(trial) is not None:
            point = plan.space.canonical(plan.space.point_of(trial.params))
            values = ranked(plan, trial.number, objectives_of(trial))
            retention.add(values, Proposer.block_of(trial), point in defaults)
    return retention.holds(number)


def _runs(journal: Path, text: str) -> Iterator[tuple[str, str]]:
    """Key and id of the runs in the lines of a journal that have this text."""
    if not journal.exists():
        return
    with open(journal, "rb") as file:
        if file.seek(0, 2) == 0:
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as lines:
            at = lines.find(text.encode())
            while at >= 0:
                end = lines.find(b"\n", at)
                record = _record(lines[lines.rfind(b"\n", 0, at) + 1 : end if end >= 0 else len(lines)])
                if record.get("op") == "run":
                    yield record["key"], record["id"]
                at = lines.find(text.encode(), end) if end >= 0 else -1


def _record(line: bytes) -> dict[str, Any]:
    """A line of a journal; the last one may be a part of one."""
    try:
        record = json.loads(line)
    except ValueError:
        return {}
    return record if isinstance(record, dict) else {}
