"""`dmr list` and `dmr status`: read from the study's folder and Optuna's database, on live and dead studies alike."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import optuna

from studies.errors import StudyError
from studies.folder import StudyFolder
from studies.schema import NAME


def list_lines(storage: Path) -> list[str]:
    """A line a study."""
    folders = sorted(entry for entry in storage.iterdir() if NAME.fullmatch(entry.name)) if storage.is_dir() else []
    lines = []
    for entry in folders:
        folder = StudyFolder(storage, entry.name)
        if folder.exists:
            if folder.driver() is None:
                folder.end_leftovers()
            try:
                lines.append(_headline(folder))
            except StudyError as error:
                lines.append(f"{entry.name}: {error}")
    return lines


def status_lines(folder: StudyFolder) -> list[str]:
    """State, budget, trials by how they ended, and the best one.

    Raises:
        StudyError: no such study.
    """
    document = folder.document()
    if folder.driver() is None:
        folder.end_leftovers()
    trials = _trials(folder)
    reasons = Counter(trial.user_attrs.get("stop_reason", trial.state.name.lower()) for trial in trials)
    lines = [_headline(folder), "trials: " + (", ".join(f"{n} {reason}" for reason, n in reasons.items()) or "none")]
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
        f"MLflow: {folder.places().tracking_uri}, filter: tags.study = '{folder.name}' and tags.stage = 'search'"
    )
    return lines


def _headline(folder: StudyFolder) -> str:
    budget = folder.document()["budget"]["trials"]
    finished = sum(trial.state.is_finished() for trial in _trials(folder))
    driver = folder.driver()
    state = f"running (process {driver})" if driver else "complete" if finished >= budget else "not running"
    return f"{folder.name}: {state}, {finished} of {budget} trials"


def _trials(folder: StudyFolder) -> list[optuna.trial.FrozenTrial]:
    url = folder.places().optuna_url
    if url.startswith("sqlite:///") and not Path(url.removeprefix("sqlite:///")).exists():
        return []
    try:
        return optuna.load_study(study_name=folder.name, storage=url).get_trials(deepcopy=False)
    except KeyError:
        return []
