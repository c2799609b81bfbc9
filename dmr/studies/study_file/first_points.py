"""The points of a search that are run first, from `first:` of the study file."""

from __future__ import annotations

from typing import Any

from dmr.analysis.results.record_names import DEFAULTS
from dmr.studies.study_file.dotted_keys import flat_values, with_point
from dmr.studies.study_file.mistakes import invalid, short
from dmr.studies.study_file.search_blocks import SearchBlock


def first_points(
    entries: list[Any], blocks: tuple[SearchBlock, ...], block_documents: list[dict[str, Any]]
) -> tuple[dict[str, Any], ...]:
    """The points to run first, each entry once in every block, in the order of the trials.

    Raises:
        InvalidStudy: a point that does not fit its space, or comes twice in one block but not in another.
    """
    rows: list[list[dict[str, Any]]] = []
    for n, entry in enumerate(entries):
        row = [first_point(entry, f"first[{n}]", *of) for of in zip(blocks, block_documents, strict=True)]
        known = [point in column for point, column in zip(row, zip(*rows, strict=True), strict=False)]
        if not any(known):
            rows.append(row)
        elif not all(known):
            label = blocks[known.index(True)].label
            raise invalid(f"first[{n}]", f"in block {label} it is a point that comes before")
    return tuple(point for row in rows for point in row)


def first_point(entry: Any, name: str, block: SearchBlock, own: dict[str, Any]) -> dict[str, Any]:
    """A point to run first; keys it does not name have the file's defaults.

    Raises:
        InvalidStudy: it does not fit the block's space.
    """
    space = block.space
    at = name if block.label is None else f"{name}, block {block.label}"
    given = {} if entry == DEFAULTS else entry
    if not isinstance(given, dict):
        raise invalid(name, f"got {short(entry)}; allowed: {DEFAULTS}, or a mapping of searched keys to values")
    unknown = sorted(str(key) for key in given if key not in space.keys)
    if unknown:
        raise invalid(at, f"{unknown[0]} is not searched; searched are {', '.join(space.keys) or 'none'}")
    for parameter in space.parameters:
        if parameter.key in given and not parameter.contains(given[parameter.key]):
            value = given[parameter.key]
            raise invalid(at, f"{parameter.key}: got {short(value)}, outside its {parameter.text()}")
    values = flat_values(with_point(own, given))
    point: dict[str, Any] = {}
    for parameter in space.parameters:
        if not parameter.active(point):
            continue
        value = given.get(parameter.key, values.get(parameter.key))
        if not parameter.contains(value):
            raise invalid(
                at,
                f"{parameter.key}: the file's default is {value!r}, outside its {parameter.text()}; "
                "change one of them, or what is in `first`",
            )
        point[parameter.key] = parameter.canonical(value)
    inactive = sorted(set(given) - set(point))
    if inactive:
        raise invalid(at, f"{inactive[0]} is not searched there: its `when` does not hold")
    return block.whole(point)
