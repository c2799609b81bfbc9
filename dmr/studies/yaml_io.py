"""Reading and writing YAML: safe, with numbers like 1e-3 read as numbers, and errors that name the line."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from dmr.studies.errors import StudyError

MAX_BYTES = 2**20


class _Loader(yaml.SafeLoader):
    """YAML 1.1 reads 1e-3 as text and merges repeated keys silently; this one does neither."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)  # type: ignore[no-untyped-call]
            if not isinstance(key, str | int | float | bool | None):
                raise yaml.constructor.ConstructorError(None, None, "a key must be plain text", key_node.start_mark)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} comes twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_POWERS = re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$")


class _Dumper(yaml.SafeDumper):
    """Quotes the text "1e-3", so that it stays text."""


for _side in (_Loader, _Dumper):
    _side.add_implicit_resolver("tag:yaml.org,2002:float", _POWERS, list("-+0123456789"))


def parse_yaml(text: str, where: str) -> Any:
    """The value of a YAML text.

    Raises:
        StudyError: it does not parse; the line is named after `where`.
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        reason = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error)
        raise StudyError(f"{where}{line}: not YAML: {' '.join(str(reason).split())}") from None
    except (ValueError, RecursionError, OverflowError) as error:
        raise StudyError(f"{where}: not YAML: {' '.join(str(error).split())[:200]}") from None


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        StudyError: missing, unreadable, empty, not text, not YAML, or not a mapping.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise StudyError(f"{path}: larger than {MAX_BYTES >> 20} MiB; a study file is a short YAML text")
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise StudyError(f"{path}: no such file") from None
    except UnicodeDecodeError:
        raise StudyError(f"{path}: not a text file; a study file is YAML in UTF-8") from None
    except (OSError, ValueError) as error:
        raise StudyError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    value = parse_yaml(text, str(path))
    if value is None:
        raise StudyError(f"{path}: empty; a study file needs at least a `dataset`")
    if not isinstance(value, dict):
        raise StudyError(f"{path}: a mapping of keys is needed, got {type(value).__name__}")
    return value


def to_yaml(value: Any) -> str:
    """YAML with keys in the order given."""
    text: str = yaml.dump(
        value, Dumper=_Dumper, sort_keys=False, default_flow_style=None, allow_unicode=True, width=120
    )
    return text
