"""`dmr list` and `dmr status`: read from the study's folder and Optuna's database, on live and dead studies alike."""

from __future__ import annotations

from collections import Counter
from typing import Any

import optuna

from dmr.analysis.results.record_names import SEARCH, STOPPED_EARLY, counted, runs_filter
from dmr.direction import Direction
from dmr.studies.errors import StudyError
from dmr.studies.names import NAME
from dmr.studies.storage.locations import Storage
from dmr.studies.storage.optuna_attributes import ENDED, best_of, confirm_run_key, stop_reason_of, wanted_runs
from dmr.studies.storage.optuna_storage import load_confirmation, load_search
from dmr.studies.storage.store_passwords import mask_password
from dmr.studies.storage.study_folder import StudyFolder
from dmr.studies.storage.study_objects import STUDY_FILE, listed_folders


def list_lines(storage: Storage) -> list[str]:
    """A line per study. What a dead driver left running on this machine is ended on the way.

    Raises:
        StudyError: the store cannot be read.
    """
    lines = []
    for folder in studies_in(storage):
        try:
            folder.refresh()
            document = folder.checked_document()
            _end_leftovers(folder)
            lines.append(_headline(folder, document, load_search(folder)))
        except StudyError as error:
            lines.append(f"{folder.name}: {error}")
    return lines


def studies_in(storage: Storage) -> list[StudyFolder]:
    """The studies of a storage, by name; of those in object storage nothing is copied yet.

    Raises:
        StudyError: the store cannot be read.
    """
    if isinstance(storage, str):
        listed = [(name, found) for where, name, found in listed_folders(storage) if where == storage]
        named = [(name, found) for name, found in listed if any(entry.key == STUDY_FILE for entry in found)]
        return [StudyFolder(storage, name, found) for name, found in named]
    names = sorted(entry.name for entry in storage.iterdir() if NAME.fullmatch(entry.name)) if storage.is_dir() else []
    return [folder for folder in (StudyFolder(storage, name) for name in names) if folder.exists]


def status_lines(folder: StudyFolder) -> list[str]:
    """State, budget, trials by how they ended, and the best one. What a dead driver left running here is ended.

    Raises:
        StudyError: no such study.
    """
    document = folder.checked_document()
    _end_leftovers(folder)
    study = load_search(folder)
    trials = study.get_trials(deepcopy=False)
    reasons = Counter(stop_reason_of(trial) for trial in trials)
    lines = [
        _headline(folder, document, study),
        "trials: " + (", ".join(f"{n} {reason}" for reason, n in reasons.items()) or "none"),
    ]
    if document.get("confirm"):
        ended = Counter(stop_reason_of(t) for t in _confirm_runs(folder))
        lines.append("confirm: " + (", ".join(f"{n} {reason}" for reason, n in ended.items()) or "not begun"))
    found = {trial.number: best for trial in trials if (best := best_of(trial)) is not None}
    if found:
        objective = document["objective"][0]
        sign = Direction(objective["mode"]).sign
        number, best = max(found.items(), key=lambda item: sign * item[1].objective)
        value = f"{objective['metric']} {best.objective:.4f}"
        reason = stop_reason_of(trials[number])
        early = f", {reason}" if reason in STOPPED_EARLY else ""
        lines.append(f"best: {value}, worst combination {best.worst:.4f} (trial {number}{early})")
    minutes = document["budget"]["minutes"]
    lines.append(f"ran {folder.seconds_run() / 60:.1f} min" + (f" of {minutes:g}" if minutes else ""))
    lines.append(
        f"MLflow: {mask_password(folder.store_uris().tracking_uri)}, filter: {runs_filter(folder.name, SEARCH)}"
    )
    return lines


def _end_leftovers(folder: StudyFolder) -> None:
    if folder.lock.driver() is None:
        folder.lock.end_leftovers()


def _headline(folder: StudyFolder, document: dict[str, Any], study: optuna.Study) -> str:
    budget = document["budget"]
    finished = sum(trial.state.is_finished() for trial in study.get_trials(deepcopy=False))
    driver = folder.driver()
    complete = search_ended(document, study)
    confirmed = ""
    if document.get("confirm") and complete:
        runs = _confirm_runs(folder)
        done = sum(trial.state.is_finished() for trial in runs)
        confirmed = f", {done} of {counted(len(runs), 'confirm run')}"
        complete = 0 < len(runs) == done
    state = f"running ({driver})" if driver else "complete" if complete else "not running"
    return f"{folder.name}: {state}, {finished} of {counted(budget['trials'], 'trial')}{confirmed}"


def search_ended(document: dict[str, Any], study: optuna.Study) -> bool:
    """Whether a study's search has come to the end of its budget."""
    finished = sum(trial.state.is_finished() for trial in study.get_trials(deepcopy=False))
    return bool(finished >= document["budget"]["trials"] or study.user_attrs.get(ENDED) == document["budget"])


def _confirm_runs(folder: StudyFolder) -> list[optuna.trial.FrozenTrial]:
    """The runs of the confirmation, without those whose configuration is no longer among the best."""
    study = load_confirmation(folder)
    if study is None:
        return []
    wanted = wanted_runs(study)
    return [trial for trial in study.get_trials(deepcopy=False) if confirm_run_key(trial).key in wanted]
