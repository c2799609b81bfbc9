"""What was learned by reading all of some files, remembered as long as they stay the same, so that it costs once."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from dmr.files import write_text


def learned_once(what: str, files: Iterable[Path], learn: Callable[[], Any]) -> Any:
    """What `learn` returns, which JSON can hold, from memory where none of the files has changed since.

    Args:
        what: names what is learned, and of what.
    """
    state = {str(file): _state(file) for file in files}
    with suppress(OSError, ValueError, KeyError, TypeError, RuntimeError):
        known = json.loads(_memory(what).read_text(encoding="utf-8"))
        if known["files"] == state:
            return known["learned"]
    learned = learn()
    with suppress(OSError, RuntimeError):  # a home that is not there or cannot be written costs the reading again
        memory = _memory(what)
        memory.parent.mkdir(parents=True, exist_ok=True)
        write_text(memory, json.dumps({"files": state, "learned": learned}))
    return learned


def _memory(what: str) -> Path:
    """Raises:
    RuntimeError: nobody knows the home of this user.
    """
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return home / "dmr" / f"{hashlib.sha256(what.encode()).hexdigest()[:32]}.json"


def _state(file: Path) -> list[int]:
    """Size and times; the last one also changes where a copy keeps the time of the original."""
    found = file.stat()
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns]
