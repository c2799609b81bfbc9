"""Classes of people's own, named `module:Class` in a study file."""

from __future__ import annotations

import importlib
from typing import TypeVar

T = TypeVar("T")


def import_class(name: str, base: type[T]) -> type[T]:
    """The class of `module:Class`.

    Raises:
        ValueError: no such module or class, or not a `base`; one line.
    """
    module, _, attribute = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute, None)
    except Exception as error:  # a module of somebody else's raises anything
        raise ValueError(f"got {name!r}: {module} cannot be imported: {type(error).__name__}: {error}") from None
    if not isinstance(found, type) or not issubclass(found, base):
        raise ValueError(f"got {name!r}: {module} has no {base.__name__} {attribute!r}")
    return found
