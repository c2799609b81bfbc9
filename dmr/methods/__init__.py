"""The methods by name. A new one is a file beside this one and a line in `METHODS`."""

from __future__ import annotations

import importlib
import sys

from dmr.methods.base import Method, MethodSettings, Prediction, StepLosses
from dmr.methods.dmrnet import DMRNet
from dmr.methods.dropout import Dropout

METHODS: dict[str, type[Method]] = {"dmrnet": DMRNet, "dropout": Dropout}

__all__ = ["METHODS", "Method", "MethodSettings", "Prediction", "StepLosses", "build_method", "find_method"]


def build_method(settings: MethodSettings, fused_width: int, num_classes: int, num_combinations: int) -> Method:
    """The method that `settings` belong to, on fused features of `fused_width`."""
    own = vars(sys.modules[type(settings).__module__]).values()
    method: type[Method] = next(m for m in (*METHODS.values(), *own) if getattr(m, "Settings", None) is type(settings))
    return method(settings, fused_width, num_classes, num_combinations)


def find_method(name: str) -> type[Method]:
    """Raises:
    ValueError: there is none.
    """
    if name in METHODS:
        return METHODS[name]
    module, colon, attribute = name.partition(":")
    if not colon:
        raise ValueError(f"no method {name!r}; known are {', '.join(METHODS)}, or module:Class")
    try:
        found: type[Method] = getattr(importlib.import_module(module), attribute)
    except Exception as error:
        raise ValueError(f"{name}: cannot be imported: {error}") from None
    return found
