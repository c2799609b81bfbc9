"""Turn the original release of a public data set into the `arrays` layout: `dmr data prepare`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from dmr.data.dataset import DataError
from dmr.data.prepare.casia_surf import casia_surf
from dmr.data.prepare.crema_d import crema_d
from dmr.data.prepare.hydraulic import Target, hydraulic
from dmr.data.prepare.kinetics_sounds import kinetics_sounds
from dmr.data.prepare.nyuv2 import nyuv2
from dmr.data.prepare.release import Release
from dmr.data.prepare.utd_mhad import utd_mhad

RELEASES: dict[str, Callable[..., Release]] = {
    "crema_d": crema_d,
    "kinetics_sounds": kinetics_sounds,
    "casia_surf": casia_surf,
    "nyuv2": nyuv2,
    "utd_mhad": utd_mhad,
    "hydraulic": hydraulic,
}
OPTIONS: dict[str, tuple[str, Any]] = {  # which set has an option, and its default
    "split": ("crema_d", "published"),
    "target": ("hydraulic", "accumulator"),
    "depth": ("utd_mhad", False),
}


def open_release(
    name: str, source: Path, split: str = "published", target: Target = "accumulator", depth: bool = False
) -> Release:
    """The release of a set below `source`; of the samples nothing is read here.

    Raises:
        DataError: a folder or list is missing or cannot be used, by file and line; the set does not have an option.
    """
    given = {"split": split, "target": target, "depth": depth}
    for option, (owner, default) in OPTIONS.items():
        if owner != name and given[option] != default:
            raise DataError(f"--{option}: {owner} has this option, {name} has not")
    return RELEASES[name](source, **{option: given[option] for option, (owner, _) in OPTIONS.items() if owner == name})
