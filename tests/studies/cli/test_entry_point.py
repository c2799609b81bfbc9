"""The command where the shell has closed a stream, has read enough, or stands in a directory that is gone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

DMR = f"{sys.executable} -c 'from dmr.studies.cli.entry_point import main; main()'"
RESOLVED = """
{name: s, experiment: e, dataset: {name: digits}, model: {method: dmrnet}, objective: [{metric: m, mode: max}],
 budget: {trials: 3, minutes: null}}
"""


def shell(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["bash", "-c", command], cwd=folder, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize(
    ("command", "code", "stdout", "stderr"),
    [
        (f"{DMR} rm s --storage . <&-", 1, " ", "Aborted.\n"),
        (f"{DMR} list --storage . >&-", 0, "", ""),
        (f"{DMR} status nosuch --storage . 2>&-", 2, "", ""),
        (f"{DMR} list --storage . | true; exit ${{PIPESTATUS[0]}}", 1, "", ""),
        (f"mkdir gone && cd gone && rmdir ../gone && {DMR} list", 2, "", "the working directory has been deleted"),
    ],
    ids=["stdin", "stdout", "stderr", "pipe", "directory"],
)
def test_what_a_shell_does_to_a_command(tmp_path: Path, command: str, code: int, stdout: str, stderr: str) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "s/study.yaml").write_text(RESOLVED)
    (tmp_path / "s/places.json").write_text('{"tracking_uri": "sqlite:///m.db", "optuna_url": "sqlite:///o.db"}')
    done = shell(command, tmp_path)
    assert (done.returncode, done.stdout) == (code, stdout), done.stderr
    assert stderr in done.stderr
    assert "Traceback" not in done.stderr
    assert "Broken pipe" not in done.stderr
