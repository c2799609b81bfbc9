"""`dmr`: the command line. Results go to standard output, everything for people's eyes to standard error.

Imports are inside the commands, so that `--help` costs nothing.
"""

from __future__ import annotations

import gc
import os
import sys

from dmr.studies.cli import (  # noqa: F401  # their commands
    compare_command,
    data_commands,
    model_commands,
    reading_commands,
    study_commands,
)
from dmr.studies.cli.app import app
from dmr.studies.cli.output_encoding import write_everything


def main() -> None:
    """The entry point of `dmr`."""
    _open_closed_streams()
    write_everything()
    try:
        app()
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    finally:
        gc.freeze()  # or Python looks for garbage among all that was imported before it ends


def _open_closed_streams() -> None:
    """A stream that the shell closed (`>&-`) leads to nowhere; else the next file opened, such as a database, would
    take its number and get what is printed.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            descriptor = os.open(os.devnull, os.O_RDWR)  # the lowest number that is free: the stream's
            os.set_inheritable(descriptor, True)
            setattr(sys, name, os.fdopen(descriptor, mode, encoding="utf-8"))
