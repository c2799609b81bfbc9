"""`dmr list` and `dmr status`: read from the study's folder and Optuna's database, on live and dead studies alike."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import optuna

from dmr.studies.errors import StudyError
from dmr.studies.names import CONFIRM, NAME, WANTED
from dmr.studies.storage.optuna_storage import open_optuna, unusable
from dmr.studies.storage.store_passwords import mask_password
from dmr.studies.storage.study_folder import StudyFolder
from dmr.studies.trial_outcomes import ENDED


def list_lines(storage: Path) -> list[str]:
    """A line a study."""
    folders = sorted(entry for entry in storage.iterdir() if NAME.fullmatch(entry.name)) if storage.is_dir() else []
    lines = []
    for entry in folders:
        folder = StudyFolder(storage, entry.name)
        if folder.exists:
            try:
                lines.append(_headline(folder, load_search(folder)))
            except StudyError as error:
                lines.append(f"{entry.name}: {error}")
    return lines


def status_lines(folder: StudyFolder) -> list[str]:
    """State, budget, trials by how they ended, and the best one.

    Raises:
        StudyError: no such study.
    """
    document = folder.document()
    study = load_search(folder)
    trials = study.get_trials(deepcopy=False) if study else []
    reasons = Counter(trial.user_attrs.get("stop_reason", trial.state.name.lower()) for trial in trials)
    lines = [
        _headline(folder, study),
        "trials: " + (", ".join(f"{n} {reason}" for reason, n in reasons.items()) or "none"),
    ]
    if document.get("confirm"):
        ended = Counter(t.user_attrs.get("stop_reason", t.state.name.lower()) for t in _confirm_runs(folder))
        lines.append("confirm: " + (", ".join(f"{n} {reason}" for reason, n in ended.items()) or "not begun"))
    mode = document["objective"][0]["mode"]
    with_value = [trial for trial in trials if "best" in trial.user_attrs]
    if with_value:
        pick = max if mode == "max" else min
        best = pick(with_value, key=lambda trial: trial.user_attrs["best"][0])
        value, worst = best.user_attrs["best"]
        metric = document["objective"][0]["metric"]
        lines.append(f"best: {metric} {value:.4f}, worst combination {worst:.4f} (trial {best.number})")
    minutes = document["budget"]["minutes"]
    lines.append(f"ran {folder.seconds_run() / 60:.1f} min" + (f" of {minutes:g}" if minutes else ""))
    lines.append(
        f"MLflow: {mask_password(folder.places().tracking_uri)}, "
        f"filter: tags.study = '{folder.name}' and tags.stage = 'search'"
    )
    return lines


def _headline(folder: StudyFolder, study: optuna.Study | None) -> str:
    document = folder.document()
    budget = document["budget"]
    finished = sum(trial.state.is_finished() for trial in study.get_trials(deepcopy=False)) if study else 0
    driver = folder.driver()
    complete = search_ended(document, study)
    confirmed = ""
    if document.get("confirm") and complete:
        runs = _confirm_runs(folder)
        done = sum(trial.state.is_finished() for trial in runs)
        confirmed = f", {done} of {len(runs)} confirm runs"
        complete = 0 < len(runs) == done
    state = f"running (process {driver})" if driver else "complete" if complete else "not running"
    return f"{folder.name}: {state}, {finished} of {budget['trials']} trials{confirmed}"


def search_ended(document: dict[str, Any], study: optuna.Study | None) -> bool:
    """Whether a study's search has come to the end of its budget."""
    if study is None:
        return False
    finished = sum(trial.state.is_finished() for trial in study.get_trials(deepcopy=False))
    return bool(finished >= document["budget"]["trials"] or study.user_attrs.get(ENDED) == document["budget"])


def _confirm_runs(folder: StudyFolder) -> list[optuna.trial.FrozenTrial]:
    """The runs of the confirmation, without those whose configuration is no longer among the best."""
    study = load_search(folder, f"{folder.name}/{CONFIRM}")
    if study is None:
        return []
    wanted = study.user_attrs.get(WANTED, {})
    return [t for t in study.get_trials(deepcopy=False) if "/".join(map(str, t.user_attrs["pair"])) in wanted]


def load_search(folder: StudyFolder, name: str | None = None) -> optuna.Study | None:
    """Optuna's study of the search, or one of this name; None where there is none yet. What a dead driver of it left
    running is ended.

    Raises:
        StudyError: its storage cannot be read.
    """
    if folder.driver() is None:
        folder.end_leftovers()
    url = folder.places().optuna_url
    if url.startswith("sqlite:///") and not Path(url.removeprefix("sqlite:///")).exists():
        return None
    storage = open_optuna(url)
    try:
        return optuna.load_study(study_name=name or folder.name, storage=storage)
    except KeyError:
        return None
    except Exception as error:  # whatever a database driver raises
        raise unusable(url, error) from None
