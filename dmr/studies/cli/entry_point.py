"""`dmr`: the command line. Results go to standard output, everything for people's eyes to standard error.

Imports are inside the commands, so that `--help` costs nothing.
"""

from __future__ import annotations

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
    write_everything()
    try:
        app()
    except KeyboardInterrupt:
        raise SystemExit(130) from None
