from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any


def test_both_are_drawn(confirmed: dict[str, Any], run_script: Callable[..., Any], tmp_path: Path) -> None:
    ran = run_script("compare_two_studies.py", "site_one", "site_two", "--tracking-uri", confirmed["site_one"].uri)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines() == [
        "site_one: dmrnet best 1: mean accuracy on test 0.6071",
        "site_two: dmrnet best 1: mean accuracy on test 0.5286",
        "comparison.png",
    ]
    assert (tmp_path / "comparison.png").read_bytes().startswith(b"\x89PNG")


def test_a_mistake_is_one_line(confirmed: dict[str, Any], run_script: Callable[..., Any]) -> None:
    ran = run_script("compare_two_studies.py", "site_one", "site_one", "--tracking-uri", confirmed["site_one"].uri)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr.splitlines()[-1] == "site_one: given twice"
