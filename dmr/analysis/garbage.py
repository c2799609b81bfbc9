"""Python's search for garbage, where there is none to find and much to look at."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def no_collecting() -> Iterator[None]:
    """No search for cycles of objects that nobody holds, which looks at all that are new, again and again, while many
    are made to stay: modules that are imported, or a page of runs.
    """
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()
