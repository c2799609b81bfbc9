from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from dmr.analysis.comparison.comparison import compare
from dmr.analysis.results.kept_numbers import read_numbers, write_numbers
from dmr.analysis.results.load_study import load_study


def without(run_id: str) -> None:
    """No scores of samples, which a kept file lacks."""


def test_what_is_kept_compares_as_the_store_does(
    confirmed: dict[str, Any], run_script: Callable[..., Any], tmp_path: Path
) -> None:
    study = confirmed["site_one"]
    ran = run_script("keep_numbers.py", "site_one", "--tracking-uri", study.uri, "--out", "out")
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")
    file = tmp_path / "out" / "site_one.csv.gz"
    whole, kept = load_study(study.uri, "site_one", stage=None), read_numbers(file)
    expected, found = compare([whole], samples=without), compare([kept], samples=without)
    numbers = [name for name in found.summary.select_dtypes("number") if name != "seconds"]
    pd.testing.assert_frame_equal(found.summary[numbers], expected.summary[numbers], rtol=1e-5)
    assert found.summary["mean"].notna().all()
    pd.testing.assert_frame_equal(found.by_combination, expected.by_combination, rtol=1e-5)
    write_numbers(kept, tmp_path / "again.csv.gz")
    assert (tmp_path / "again.csv.gz").read_bytes() == file.read_bytes()


def test_a_study_that_is_not_there_is_one_line(
    confirmed: dict[str, Any], run_script: Callable[..., Any], tmp_path: Path
) -> None:
    ran = run_script("keep_numbers.py", "none", "--tracking-uri", confirmed["site_one"].uri)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert "none" in ran.stderr
    assert len(ran.stderr.splitlines()) == 1


def test_a_damaged_file_is_no_study(confirmed: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "site_one.csv.gz"
    write_numbers(load_study(confirmed["site_one"].uri, "site_one", stage=None), file)
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(EOFError):
        read_numbers(file)
