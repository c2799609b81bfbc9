"""What the file of every study has, whichever version resolved it: a file that was damaged by hand is told by it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from dmr.studies.errors import StudyError

RESOLVED: dict[str, Callable[[Any], bool]] = {
    "name": lambda value: isinstance(value, str),
    "experiment": lambda value: isinstance(value, str),
    "dataset": lambda value: isinstance(value, dict) and isinstance(value.get("name"), str),
    "model": lambda value: isinstance(value, dict) and isinstance(value.get("method"), str),
    "objective": lambda value: isinstance(value, list) and bool(value) and all(map(_is_objective, value)),
    "budget": lambda value: isinstance(value, dict) and {"trials", "minutes"} <= set(value) and _are_numbers(value),
}


def check_resolved(document: dict[str, Any], file: Path) -> None:
    """Raises:
    StudyError: a resolved study was edited so that not even its state can be shown.
    """
    for key, is_resolved in RESOLVED.items():
        if not is_resolved(document.get(key)):
            raise StudyError(f"{file}: {key}: got {document.get(key)!r}: the file is damaged; put back a copy of it")


def _is_objective(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("metric"), str) and value.get("mode") in ("min", "max")


def _are_numbers(budget: dict[str, Any]) -> bool:
    trials, minutes = budget["trials"], budget["minutes"]
    return isinstance(trials, int) and (minutes is None or isinstance(minutes, int | float))
