"""`dmr list` and `dmr status`: read from the study's folder and Optuna's database, on live and dead studies alike."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import optuna

from studies.endings import ENDED
from studies.errors import StudyError
from studies.folder import StudyFolder
from studies.mlflow_store import first_line, mask_password
from studies.names import NAME


def list_lines(storage: Path) -> list[str]:
    """A line a study."""
    folders = sorted(entry for entry in storage.iterdir() if NAME.fullmatch(entry.name)) if storage.is_dir() else []
    lines = []
    for entry in folders:
        folder = StudyFolder(storage, entry.name)
        if folder.exists:
            try:
                lines.append(_headline(folder, _study(folder)))
            except StudyError as error:
                lines.append(f"{entry.name}: {error}")
    return lines


def status_lines(folder: StudyFolder) -> list[str]:
    """State, budget, trials by how they ended, and the best one.

    Raises:
        StudyError: no such study.
    """
    document = folder.document()
    study = _study(folder)
    trials = study.get_trials(deepcopy=False) if study else []
    reasons = Counter(trial.user_attrs.get("stop_reason", trial.state.name.lower()) for trial in trials)
    lines = [
        _headline(folder, study),
        "trials: " + (", ".join(f"{n} {reason}" for reason, n in reasons.items()) or "none"),
    ]
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
    budget = folder.document()["budget"]
    finished = sum(trial.state.is_finished() for trial in study.get_trials(deepcopy=False)) if study else 0
    driver = folder.driver()
    complete = finished >= budget["trials"] or (study is not None and study.user_attrs.get(ENDED) == budget)
    state = f"running (process {driver})" if driver else "complete" if complete else "not running"
    return f"{folder.name}: {state}, {finished} of {budget['trials']} trials"


def _study(folder: StudyFolder) -> optuna.Study | None:
    """Optuna's study, None where there is none yet; what a dead driver of it left running is ended.

    Raises:
        StudyError: its storage cannot be read.
    """
    if folder.driver() is None:
        folder.end_leftovers()
    url = folder.places().optuna_url
    if url.startswith("sqlite:///") and not Path(url.removeprefix("sqlite:///")).exists():
        return None
    try:
        return optuna.load_study(study_name=folder.name, storage=url)
    except KeyError:
        return None
    except Exception as error:  # whatever a database driver raises
        raise StudyError(f"Optuna's storage {mask_password(url)}: cannot be read: {first_line(error)}") from None
