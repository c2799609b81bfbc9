"""Checks that read all of a data folder, remembered for as long as its files stay the same, so that they cost once."""

from __future__ import annotations

import logging
from pathlib import Path

from dmr.data.arrays import check_values
from dmr.data.dataset import MultimodalDataset
from dmr.studies.file_memory import learned_once

log = logging.getLogger("dmr")


def check_once(path: Path, dataset: MultimodalDataset) -> None:
    """Check the values of a folder in the `arrays` layout; a warning is logged each time.

    Raises:
        DataError: NaN or infinity in an input.
    """
    files = [path / "dataset.yaml", *sorted(path.glob("*/*.npy"))]
    for warning in learned_once(f"values {path.resolve()}", files, lambda: check_values(path, dataset)):
        log.warning("%s", warning)
