"""What pydantic finds wrong: the key, what came, what is allowed."""

from __future__ import annotations

import difflib
import typing
from collections.abc import Iterator

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from dmr.data.yaml_text import text_rule
from dmr.studies.study_file.mistakes import Mistake, short

RULES = {
    "model_type": "a mapping",
    "dict_type": "a mapping",
    "list_type": "a list",
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "too_short": "a list with at least {min_length} entry",
    "string_too_short": "at least {min_length} character(s)",
    "string_too_long": "at most {max_length} characters",
}


def mistakes_of(error: ValidationError, section: type[BaseModel], prefix: str) -> Iterator[Mistake]:
    """Each mistake once; `prefix` is what the section's keys begin with."""
    told = set()
    for item in error.errors(include_url=False, include_context=True):
        key = prefix + _dotted(item["loc"])
        if key in told:
            continue
        told.add(key)
        if item["type"] == "extra_forbidden":
            known = _fields_at(section, item["loc"][:-1])
            yield Mistake(key, f"no such key; {nearest(str(item['loc'][-1]), known)}")
        elif item["type"] == "missing":
            yield Mistake(key, "this key is needed")
        else:
            yield Mistake(key, f"got {short(item['input'])}; allowed: {_rule(item)}")


def _rule(item: ErrorDetails) -> str:
    """What is allowed, without pydantic's own words for it."""
    if item["type"] in ("string_type", "invalid_key"):
        return f"{'keys that are ' if item['type'] == 'invalid_key' else ''}{text_rule(item['input'])}"
    rule = RULES.get(item["type"])
    return rule.format(**item.get("ctx", {})) if rule else item["msg"].removeprefix("Input should be ")


def _dotted(location: tuple[int | str, ...]) -> str:
    """`objective[0].metric`, without pydantic's mark of a mistake in a key itself."""
    text = ""
    for part in location:
        if isinstance(part, int):
            text += f"[{part}]"
        elif part != "[key]":
            text += f".{part}" if text else part
    return text


def _fields_at(section: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    for part in location:
        if isinstance(part, str) and part in section.model_fields:
            annotation = section.model_fields[part].annotation
            options = [annotation, *typing.get_args(annotation)]
            nested = next((o for o in options if isinstance(o, type) and issubclass(o, BaseModel)), None)
            if nested is None:
                return []
            section = nested
    return list(section.model_fields)


def nearest(word: str, known: typing.Iterable[str]) -> str:
    """`did you mean x?` where something is near, else all that is allowed."""
    listed = list(known)
    near = difflib.get_close_matches(word, listed, n=1, cutoff=0.6)
    return f"did you mean {near[0]}?" if near else f"allowed are {', '.join(listed)}"
