"""What a command says can be written to every terminal, pipe and file, whatever its encoding."""

from __future__ import annotations

import codecs
import io
import sys

SPELLED = {"–": "-", "−": "-", "×": "x", "…": "...", "≤": "<="}  # our own signs; the letters of names are escaped
HANDLER = "dmr.spelled"


def write_everything() -> None:
    """Standard output and error take every text: a letter that their encoding lacks is spelled, `é` as `\\xe9`."""
    codecs.register_error(HANDLER, _spell)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=HANDLER)


def _spell(error: UnicodeError) -> tuple[str, int]:
    """Called by Python with the letters that cannot be encoded; returns what to write, and where to go on."""
    assert isinstance(error, UnicodeEncodeError)
    letters = error.object[error.start : error.end]
    spelled = (SPELLED.get(letter) or letter.encode("ascii", "backslashreplace").decode("ascii") for letter in letters)
    return "".join(spelled), error.end
