"""The blocks of a search: parts of a study with keys fixed and a space of their own, and an equal share of the budget.

A search without blocks is one block without a label. A `grid` of values by key makes a block of each of their
combinations, its cells.
"""

from __future__ import annotations

import copy
import itertools
import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from dmr.analysis.results.record_names import BLOCK
from dmr.data.yaml_text import text_rule
from dmr.studies.names import ALLOWED_NAME, NAME
from dmr.studies.study_file.mistakes import InvalidStudy, Mistake, invalid, short
from dmr.studies.study_file.search_space import Parameter, Space, parse_space

GRID = "grid"
MOST_CELLS = 1000


@dataclass(frozen=True)
class SearchBlock:
    """What is searched on its own.

    Attributes:
        label: of a block; None where the search has no blocks.
        at: its place in the file, for mistakes.
        fixed: dotted keys that have these values in all of its trials.
        space: its searched keys.
        document: it alone, as the file has it, a cell with the one value that it has of each key of its `grid`.
    """

    label: str | None
    at: str
    fixed: Mapping[str, Any]
    space: Space
    document: Mapping[str, Any] = field(default_factory=dict)

    def whole(self, point: Mapping[str, Any]) -> dict[str, Any]:
        """A point of this block as a point of the study."""
        return dict(point) if self.label is None else {BLOCK: self.label, **point}

    def changes(self, point: Mapping[str, Any]) -> dict[str, Any]:
        """What a point of the study changes in the document."""
        return {**self.fixed, **{key: value for key, value in point.items() if key != BLOCK}}


def parse_blocks(search: Any, method: str) -> tuple[SearchBlock, ...]:
    """The blocks of a `search:` mapping or list of mappings.

    Args:
        method: the file's own, which labels a block that fixes none.

    Raises:
        InvalidStudy: every mistake.
    """
    if not isinstance(search, list) and not (isinstance(search, dict) and GRID in search):
        return (SearchBlock(None, "search", {}, parse_space(search, "search")),)
    places = (
        [("search", search)] if isinstance(search, dict) else [(f"search[{n}]", one) for n, one in enumerate(search)]
    )
    blocks: list[SearchBlock] = []
    mistakes: list[Mistake] = []
    labels: set[str] = set()
    for at, given in places:
        try:
            for document in _cells(given, at):
                blocks.append(_block(document, at, method, labels))
                labels.add(str(blocks[-1].label))
        except InvalidStudy as error:
            mistakes.extend(error.mistakes)
    if mistakes:
        raise InvalidStudy(*mistakes)
    return tuple(blocks)


def _block(given: Mapping[str, Any], at: str, method: str, labels: Collection[str]) -> SearchBlock:
    """One block of a list; `labels` are those of the blocks before it.

    Raises:
        InvalidStudy: every mistake.
    """
    keys = {key: value for key, value in given.items() if key not in ("name", GRID)}
    keys |= {key: value for key, (value,) in given.get(GRID, {}).items()}
    label = given.get("name", str(keys.get("model.method", method)).rpartition(":")[2])
    mistakes = []
    if not isinstance(label, str):
        mistakes.append(Mistake(f"{at}.name", f"got {label!r}; allowed: {text_rule(label)}"))
    elif not NAME.fullmatch(label):
        mistakes.append(Mistake(f"{at}.name", f"got {label!r}; {ALLOWED_NAME}"))
    elif label in labels:
        mistakes.append(Mistake(f"{at}.name", f"{label!r} is the name of another block; give this one its own"))
    try:
        space = parse_space({key: value for key, value in keys.items() if isinstance(value, dict)}, at)
    except InvalidStudy as error:
        raise InvalidStudy(*mistakes, *error.mistakes) from None
    if mistakes:
        raise InvalidStudy(*mistakes)
    fixed = {key: value for key, value in keys.items() if not isinstance(value, dict)}
    return SearchBlock(label, at, fixed, space, {"name": label, **given})


def _cells(given: Mapping[str, Any], at: str) -> Iterator[dict[str, Any]]:
    """A block for each combination of the values of its `grid`, the last key changing fastest, and named after them;
    the block itself where it has none. One whose keys have one value each, and that has a name, is a cell already.
    """
    if GRID not in given:
        yield dict(given)
        return
    grid = given[GRID]
    _check_grid(grid, given, f"{at}.{GRID}")
    single = all(len(values) == 1 for values in grid.values())
    for values in itertools.product(*grid.values()):
        cell = dict(zip(grid, values, strict=True))
        parts = [f"{key.rpartition('.')[2]}-{_written(value)}" for key, value in cell.items()]
        front = [str(given["name"])] if "name" in given else []
        name = {} if single and front else {"name": ".".join([*front, *parts])}
        yield {**copy.deepcopy(dict(given)), **name, GRID: {key: [value] for key, value in cell.items()}}


def _check_grid(grid: Any, given: Mapping[str, Any], at: str) -> None:
    """Raises:
    InvalidStudy: it is no mapping from keys to lists of values, has a key of the block, or too many cells.
    """
    if not isinstance(grid, dict) or not grid:
        raise invalid(at, f"got {short(grid)}; allowed: a mapping from keys to lists of values")
    for key, values in grid.items():
        scalars = isinstance(values, list) and all(isinstance(one, str | int | float | None) for one in values)
        if not scalars or not values:
            raise invalid(f"{at}.{key}", f"got {short(values)}; allowed: a list of values")
        if len(set(values)) != len(values):
            raise invalid(f"{at}.{key}", f"a value comes twice: {values!r}")
        if key in given:
            raise invalid(f"{at}.{key}", "this key stands beside the grid, too")
    cells = math.prod(map(len, grid.values()))
    if cells > MOST_CELLS:
        raise invalid(at, f"got {cells} cells; allowed: at most {MOST_CELLS}")


def _written(value: Any) -> str:
    """A value of a grid in the name of a cell."""
    text = f"{value:g}" if isinstance(value, float) else "none" if value is None else str(value)
    return re.sub(r"[^A-Za-z0-9._-]", "_", text)


def joined_space(blocks: Sequence[SearchBlock]) -> Space:
    """One space of all blocks: the block, and each block's parameters under the condition that it is this one.

    Optuna knows a block's parameters by names of their own, since it refuses one parameter with two kinds of range.
    """
    labels = tuple(block.label for block in blocks)
    if labels == (None,):
        return blocks[0].space
    parameters = [Parameter(BLOCK, "choice", labels)]
    for block in blocks:
        for p in block.space.parameters:
            name, when = f"{block.label}/{p.key}", {BLOCK: (block.label,), **p.when}
            parameters.append(replace(p, name=name, when=when))
    return Space(tuple(parameters))


def shares(budget: int, blocks: int) -> list[int]:
    """Trials of each block; the first ones get those left over."""
    return [budget // blocks + (n < budget % blocks) for n in range(blocks)]
