"""Turn the original release of a public data set into the `arrays` layout: `dmr data prepare`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from dmr.data.dataset import DataError
from dmr.data.prepare.casia_surf import casia_surf
from dmr.data.prepare.crema_d import crema_d
from dmr.data.prepare.kinetics_sounds import kinetics_sounds
from dmr.data.prepare.nyuv2 import nyuv2
from dmr.data.prepare.release import Release

RELEASES: dict[str, Callable[[Path], Release]] = {
    "kinetics_sounds": kinetics_sounds,
    "casia_surf": casia_surf,
    "nyuv2": nyuv2,
}
SETS = ("crema_d", *RELEASES)


def open_release(name: str, source: Path, split: str = "published") -> Release:
    """The release of a set below `source`; nothing but lists is read here.

    Raises:
        DataError: a folder or list is missing or cannot be used, by file and line.
    """
    if name == "crema_d":
        return crema_d(source, split)
    if split != "published":
        raise DataError(f"--split {split}: {name} has its published split alone")
    return RELEASES[name](source)
