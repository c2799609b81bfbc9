"""The methods by name. A new one is a file beside this one and a line in `METHODS`."""

from __future__ import annotations

from dmr.methods.auxiliary_heads import AuxiliaryHeads
from dmr.methods.base import Components, Method, MethodSettings
from dmr.methods.dedicated import Dedicated
from dmr.methods.dmrnet import DMRNet
from dmr.methods.dropout import Dropout
from dmr.methods.full_only import FullOnly
from dmr.methods.hemis import HeMIS
from dmr.methods.late_fusion_transformer import LateFusionTransformer
from dmr.methods.mars import MARS
from dmr.methods.mmanet import MMANet
from dmr.methods.shaspec import ShaSpec
from dmr.methods.simmlm import SimMLM
from dmr.methods.unimodal_ensemble import UnimodalEnsemble
from dmr.named import import_class

METHODS: dict[str, type[Method]] = {
    "dmrnet": DMRNet,
    "dropout": Dropout,
    "full_only": FullOnly,
    "dedicated": Dedicated,
    "hemis": HeMIS,
    "shaspec": ShaSpec,
    "mmanet": MMANet,
    "auxiliary_heads": AuxiliaryHeads,
    "simmlm": SimMLM,
    "late_fusion_transformer": LateFusionTransformer,
    "unimodal_ensemble": UnimodalEnsemble,
    "mars": MARS,
}

__all__ = ["METHODS", "Method", "MethodSettings", "build_method", "find_method", "method_name", "method_of"]


def find_method(name: str) -> type[Method]:
    """A method by its name, or by `module:Class`.

    Raises:
        ValueError: there is none.
    """
    if name in METHODS:
        return METHODS[name]
    if ":" not in name:
        raise ValueError(f"got {name!r}; allowed are {', '.join(METHODS)}, or module:Class")
    found = import_class(name, Method)
    if "Settings" not in vars(found):
        raise ValueError(f"got {name!r}: the class has no `Settings` of its own, by which a method is known")
    return found


def build_method(settings: MethodSettings, parts: Components) -> Method:
    """The method that `settings` belong to."""
    return method_of(settings)(settings, parts)


def method_of(settings: MethodSettings) -> type[Method]:
    """The method whose settings these are, among the known ones and those that were imported by `find_method`."""
    pending: list[type[Method]] = [Method]
    while pending:
        method = pending.pop()
        if method.__dict__.get("Settings") is type(settings):
            return method
        pending += method.__subclasses__()
    raise ValueError(f"no method has settings {type(settings).__name__}")


def method_name(settings: MethodSettings) -> str:
    """The name under which `find_method` has the method of these settings, in any process."""
    own = method_of(settings)
    return next((name for name, known in METHODS.items() if known is own), f"{own.__module__}:{own.__qualname__}")
