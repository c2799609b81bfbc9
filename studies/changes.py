"""What changed between two study documents, key by key."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

FREE = ("budget", "resources", "retries")  # these do not change what a trial means


def changed_keys(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """A line for each key that makes other trials: `train.epochs: was 40, is 10`."""
    return [line for line in _differences(before, after, "") if line.split(".")[0].split(":")[0] not in FREE]


def _differences(before: Any, after: Any, key: str) -> Iterator[str]:
    if isinstance(before, dict) and isinstance(after, dict) and key != "search":
        for name in dict.fromkeys((*before, *after)):
            yield from _differences(before.get(name), after.get(name), f"{key}.{name}" if key else name)
    elif key == "search" and isinstance(before, dict) and isinstance(after, dict):
        for name in dict.fromkeys((*before, *after)):
            if before.get(name) != after.get(name):
                yield f"search.{name}: was {before.get(name)}, is {after.get(name)}"
    elif before != after:
        yield f"{key}: was {before}, is {after}"
