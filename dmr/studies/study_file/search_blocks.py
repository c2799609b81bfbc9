"""The blocks of a search: parts of a study with keys fixed and a space of their own, and an equal share of the budget.

A search without blocks is one block without a label.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from dmr.analysis.results.record_names import BLOCK
from dmr.data.yaml_text import text_rule
from dmr.studies.names import ALLOWED_NAME, NAME
from dmr.studies.study_file.mistakes import InvalidStudy, Mistake
from dmr.studies.study_file.search_space import Parameter, Space, parse_space


@dataclass(frozen=True)
class SearchBlock:
    """What is searched on its own.

    Attributes:
        label: of a block; None where the search has no blocks.
        at: its place in the file, for mistakes.
        fixed: dotted keys that have these values in all of its trials.
        space: its searched keys.
    """

    label: str | None
    at: str
    fixed: Mapping[str, Any]
    space: Space

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
    if not isinstance(search, list):
        return (SearchBlock(None, "search", {}, parse_space(search, "search")),)
    blocks, mistakes, labels = [], [], set()
    for n, given in enumerate(search):
        at = f"search[{n}]"
        keys = {key: value for key, value in given.items() if key != "name"}
        label = given.get("name", str(keys.get("model.method", method)).rpartition(":")[2])
        if not isinstance(label, str):
            mistakes.append(Mistake(f"{at}.name", f"got {label!r}; allowed: {text_rule(label)}"))
        elif not NAME.fullmatch(label):
            mistakes.append(Mistake(f"{at}.name", f"got {label!r}; {ALLOWED_NAME}"))
        elif label in labels:
            mistakes.append(Mistake(f"{at}.name", f"{label!r} is the name of another block; give this one its own"))
        labels.add(str(label))
        fixed = {key: value for key, value in keys.items() if not isinstance(value, dict)}
        try:
            searched = {key: value for key, value in keys.items() if isinstance(value, dict)}
            blocks.append(SearchBlock(label, at, fixed, parse_space(searched, at)))
        except InvalidStudy as error:
            mistakes.extend(error.mistakes)
    if mistakes:
        raise InvalidStudy(*mistakes)
    return tuple(blocks)


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
