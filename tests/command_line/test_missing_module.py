"""A worker that cannot import what a trial is made of."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

METHOD = """
from dataclasses import dataclass

from dmr.methods.dropout import Dropout, DropoutSettings


@dataclass(frozen=True)
class MineSettings(DropoutSettings):
    \"\"\"No keys of its own.\"\"\"


class Mine(Dropout):
    \"\"\"Modality dropout under another name.\"\"\"

    Settings = MineSettings
"""


@pytest.mark.slow
def test_a_module_that_only_the_driver_finds_ends_the_study_in_one_line(workplace: Any, tmp_path: Path) -> None:
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / "secret_method.py").write_text(METHOD)
    code = f"import sys; sys.path.insert(0, {str(hidden)!r}); from dmr.studies.cli import main; main()"
    workplace.command = (sys.executable, "-c", code)
    ran = workplace.dmr("run", workplace.write(model={"method": "secret_method:Mine"}, search={}, budget__trials=1))
    assert ran.returncode == 1
    lines = [line for line in ran.stderr.splitlines() if "secret_method" in line]
    assert len(lines) == 1
    assert "a worker cannot import secret_method" in lines[0]
    assert "Traceback" not in ran.stderr
    deaths = (workplace.path / "dmr_runs/small/ray/trial_0000/error.txt").read_text()
    assert deaths.count("Failure # ") == 1
