"""Checkpoints: a copy of a state, and files that are written atomically and read with weights only."""

from __future__ import annotations

import logging
from copy import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dmr.files import whole_file

log = logging.getLogger("dmr")


def snapshot(content: Any) -> Any:
    """A copy of a state on the CPU, which no later step changes."""
    if isinstance(content, Tensor):
        return content.to("cpu", copy=True)
    if isinstance(content, dict):
        copied = copy(content)  # with what torch hangs on a state dict
        copied.update((key, snapshot(value)) for key, value in content.items())
        return copied
    return [snapshot(value) for value in content] if isinstance(content, list) else content


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write `state` so that `path` holds the old or the new checkpoint, never a part of one.

    Raises:
        OSError: it cannot be written.
    """
    with whole_file(path) as partial, partial.open("wb") as file:
        try:
            torch.save(state, file)
        except RuntimeError as error:  # torch's own, about positions in the file, hides why a write failed
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise


def load_checkpoint(path: Path, device: torch.device) -> dict[str, Any] | None:
    """The state at `path`; None where there is none, or (with a warning) where the file is damaged."""
    if not path.exists():
        return None
    try:
        return read_checkpoint(path, device)
    except ValueError as error:
        log.warning("%s cannot be read and is left aside: %s", path, error)
        return None


def read_checkpoint(path: Path, device: torch.device) -> dict[str, Any]:
    """The state at `path`.

    Raises:
        ValueError: the file is damaged, in one line.
    """
    try:
        state = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # damaged bytes raise almost anything: UnicodeDecodeError, IndexError, ...
        lines = str(error).splitlines() or [type(error).__name__]
        raise ValueError(lines[0].partition(". ")[0]) from None  # torch goes on about its options
    if not isinstance(state, dict):
        raise ValueError(f"a {type(state).__name__}, not a checkpoint")
    return state
