"""What changed between two study documents, key by key."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from dmr.studies.errors import StudyError
from dmr.studies.study_file.plan import StudyPlan, make_plan

FREE = (
    "budget",
    "resources",
    "retries",
    "checkpoints",
    "confirm",
    "tracking",
)  # these do not change what a trial means


def changed_keys(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """A line for each key that makes other trials: `train.epochs: was 40, is 10`."""
    differences = _differences(before, after, ())
    return [
        f"{'.'.join(key).replace('.[', '[')}: was {was}, is {now}"
        for key, was, now in differences
        if key[0] not in FREE
    ]


def changes_since(before: dict[str, Any], plan: StudyPlan) -> list[str]:
    """The same of a plan, where the document before may lack keys that an earlier version did not have."""
    changed = changed_keys(before, plan.document)
    if changed:
        with suppress(StudyError):  # such as data that have moved: they are among the changes
            changed = changed_keys(make_plan(before, plan.study.name).document, plan.document)
    return changed


def with_data_of(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """The document `before` with the path of its data as in `after`: what lies there is known by its content."""
    if "path" not in before["dataset"] or "path" not in after["dataset"]:
        return before
    return before | {"dataset": before["dataset"] | {"path": after["dataset"]["path"]}}


def _differences(before: Any, after: Any, key: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any, Any]]:
    if key == ("search",) and isinstance(before, list) and isinstance(after, list):
        before, after = ({f"[{block['name']}]": block for block in blocks} for blocks in (before, after))
    searched = key[:1] == ("search",) and len(key) == (3 if key[1:] and key[1].startswith("[") else 2)
    if isinstance(before, dict) and isinstance(after, dict) and not searched:
        for name in dict.fromkeys((*before, *after)):
            yield from _differences(before.get(name), after.get(name), (*key, str(name)))
    elif before != after:
        yield key, before, after
