"""Users' own classes and functions, named `module:Class` or `module:function` in a study file."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


def import_class(name: str, base: type[T]) -> type[T]:
    """The class of `module:Class`.

    Raises:
        ValueError: no such module or class, or not a `base`; one line.
    """
    found = _import(name)
    if not isinstance(found, type) or not issubclass(found, base):
        module, _, attribute = name.partition(":")
        raise ValueError(f"got {name!r}: {module} has no {base.__name__} {attribute!r}")
    return found


def import_function(name: str) -> Callable[..., Any]:
    """The function of `module:function`.

    Raises:
        ValueError: no such module or function; one line.
    """
    found = _import(name)
    if not inspect.isroutine(found):
        module, _, attribute = name.partition(":")
        raise ValueError(f"got {name!r}: {module} has no function {attribute!r}")
    return found  # type: ignore[no-any-return]


def _import(name: str) -> object:
    """What the module has under this name, None where it has nothing."""
    module, _, attribute = name.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute, None)
    except Exception as error:  # a module of somebody else's raises anything
        raise ValueError(f"got {name!r}: {module} cannot be imported: {type(error).__name__}: {error}") from None
