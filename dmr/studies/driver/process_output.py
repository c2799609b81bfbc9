"""What this process and the engines in it write: the study's log, and a quiet screen."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from dmr.studies.storage.store_passwords import mask_password


class _WithoutPasswords(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return mask_password(super().format(record))


@contextmanager
def logging_to(path: Path) -> Iterator[None]:
    """Write the logs of this project and of the engines to a file."""
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(_WithoutPasswords("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    root.addHandler(handler)
    logging.captureWarnings(True)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        root.removeHandler(handler)
        handler.close()


@contextmanager
def engine_noise_to(path: Path) -> Iterator[TextIO]:
    """Send what this process and its children write on standard streams to a file; yields the real standard error."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(1), os.dup(2)]
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
    stderr = os.fdopen(os.dup(kept[1]), "w", buffering=1, encoding=sys.stderr.encoding, errors=sys.stderr.errors)
    try:
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        yield stderr
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, original in enumerate(kept, start=1):
            os.dup2(original, number)
            os.close(original)
        os.close(descriptor)
        stderr.close()
