"""The methods by name. A new one is a file beside this one and a line in `METHODS`."""

from __future__ import annotations

from dmr.methods.base import Method, MethodSettings, Prediction, StepLosses
from dmr.methods.dmrnet import DMRNet
from dmr.methods.dropout import Dropout

METHODS: dict[str, type[Method]] = {"dmrnet": DMRNet, "dropout": Dropout}

__all__ = ["METHODS", "Method", "MethodSettings", "Prediction", "StepLosses", "build_method"]


def build_method(settings: MethodSettings, fused_width: int, num_classes: int, num_combinations: int) -> Method:
    """The method that `settings` belong to, on fused features of `fused_width`."""
    method = next(method for method in METHODS.values() if method.Settings is type(settings))
    return method(settings, fused_width, num_classes, num_combinations)
