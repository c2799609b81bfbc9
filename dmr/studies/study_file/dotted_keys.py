"""A study's document at a point of its space: dotted keys set, and what values a key can have in trials."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from dmr.methods import find_method
from dmr.studies.study_file.mistakes import invalid
from dmr.studies.study_file.search_space import Space

SEARCHED_SECTIONS = ("model", "sampling", "train")


def set_key(document: dict[str, Any], key: str, value: Any) -> None:
    """Set a dotted key, in place; below `search` the rest of the key is a searched key.

    Raises:
        ValueError: the key goes through something that is no mapping.
    """
    *path, last = key.split(".", 1 if key.startswith("search.") else -1)
    for part in path:
        if document.get(part) is None:
            document[part] = {}
        document = document[part]
        if not isinstance(document, dict):
            raise ValueError(f"{part} is no mapping, so it has no key {last}")
    document[last] = value


def with_point(document: dict[str, Any], point: Mapping[str, Any]) -> dict[str, Any]:
    """The document with dotted keys set; another method keeps the keys it shares, and has its own defaults.

    Raises:
        InvalidStudy: a key goes through something that is no mapping.
    """
    changed = copy.deepcopy(document)
    if "model.method" in point:
        own = fields(find_method(point["model.method"]).Settings)
        keep = {"method", "encoder", "fusion"} | {f.name for f in own}
        changed["model"] = {key: value for key, value in changed["model"].items() if key in keep}
        changed["model"] |= {f.name: f.default for f in own if f.name not in changed["model"]}
    for key, value in point.items():
        try:
            set_key(changed, key, value)
        except ValueError as error:
            raise invalid(key, str(error)) from None
    return changed


def flatten(value: Any, key: str) -> list[tuple[str, Any]]:
    """Every value inside under its dotted key."""
    if isinstance(value, dict):
        return [pair for name, inner in value.items() for pair in flatten(inner, f"{key}.{name}")]
    return [(key, value)]


def flat_values(document: dict[str, Any]) -> dict[str, Any]:
    """Every value that may be searched, under its dotted key."""
    return dict(pair for section in SEARCHED_SECTIONS for pair in flatten(document[section], section))


def values_met(document: dict[str, Any], space: Space, key: str, at: Mapping[str, Any] | None = None) -> list[Any]:
    """The values a key has in trials: what is searched (a range's ends) and, where that is not always, the file's.

    Args:
        at: look only at trials in which these searched keys have these values.
    """
    section, name = key.split(".")
    given = at or {}
    parameters = [p for p in space.parameters if p.key == key]
    searched = [p for p in parameters if all(given.get(k, allowed[0]) in allowed for k, allowed in p.when.items())]
    always = any(set(p.when) <= set(given) for p in searched)
    return [value for p in searched for value in p.values] + ([] if always else [document[section][name]])


def methods_met(document: dict[str, Any], space: Space) -> list[str]:
    """The methods of trials."""
    return values_met(document, space, "model.method")
