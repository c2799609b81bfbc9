"""Mistakes of the user: shown as lines without a traceback, with exit code 2, before anything is started."""

from __future__ import annotations


class StudyError(Exception):
    """One or more mistakes, one line per mistake: which file and key, what came, what is allowed."""

    def __init__(self, *lines: str) -> None:
        super().__init__("\n".join(lines))
        self.lines = lines
