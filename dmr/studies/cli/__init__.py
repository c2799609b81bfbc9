"""The command line `dmr`: one file per group of commands, and the tables they print.

Imports inside the commands, so that `--help` costs nothing. Nothing imports this package.
"""

from dmr.studies.cli.app import app
from dmr.studies.cli.entry_point import main

__all__ = ["app", "main"]
