"""Checks that read all of a data folder, remembered by the size and time of its files, so that they cost once."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from contextlib import suppress
from pathlib import Path

from dmr.data.arrays import check_values
from dmr.data.dataset import MultimodalDataset
from dmr.files import write_text

log = logging.getLogger("dmr")


def check_once(path: Path, dataset: MultimodalDataset) -> None:
    """Check the values of a folder in the `arrays` layout; a warning is logged each time.

    Raises:
        DataError: NaN or infinity in an input.
    """
    memory = _memory(path.resolve())
    state = {str(file): _size_and_time(file) for file in [path / "dataset.yaml", *sorted(path.glob("*/*.npy"))]}
    warnings: list[str] | None = None
    with suppress(OSError, ValueError, KeyError, TypeError):
        known = json.loads(memory.read_text(encoding="utf-8"))
        warnings = known["warnings"] if known["files"] == state else None
    if warnings is None:
        warnings = check_values(path, dataset)
        with suppress(OSError):  # a home that cannot be written costs the check again
            memory.parent.mkdir(parents=True, exist_ok=True)
            write_text(memory, json.dumps({"files": state, "warnings": warnings}))
    for warning in warnings:
        log.warning("%s", warning)


def _memory(path: Path) -> Path:
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return home / "dmr" / f"{hashlib.sha256(str(path).encode()).hexdigest()[:32]}.json"


def _size_and_time(file: Path) -> list[int]:
    found = file.stat()
    return [found.st_size, found.st_mtime_ns]
