"""Commands write to terminals, pipes and files of any encoding; where a letter is lacking, it is spelled."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from rich.console import Console
from rich.table import Table

from dmr.studies.cli.entry_point import main
from dmr.studies.driver.process_output import engine_noise_to

DMR = Path(sys.executable).with_name("dmr")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A data folder whose path and class names have letters that ASCII lacks, and an image (its shape has a ×)."""
    folder = tmp_path / "größe"
    draw = np.random.default_rng(0)
    for split in ("train", "val"):
        (folder / split).mkdir(parents=True)
        np.save(folder / split / "label.npy", np.arange(8, dtype=np.int64) % 2)
        for name in ("photo", "depth"):
            np.save(folder / split / f"{name}.npy", draw.random((8, 1, 4, 4), dtype=np.float32))
    description = {
        "num_classes": 2,
        "class_names": ["Bär", "猫"],
        "modalities": [{"name": name, "kind": "image", "shape": [1, 4, 4]} for name in ("photo", "depth")],
    }
    (folder / "dataset.yaml").write_text(yaml.safe_dump(description, allow_unicode=True), encoding="utf-8")
    return folder


def streams(monkeypatch: pytest.MonkeyPatch, encoding: str) -> list[io.BytesIO]:
    """Standard output and error of an encoding that refuse what they lack, as Python opens them."""
    written = [io.BytesIO(), io.BytesIO()]
    for name, file in zip(("stdout", "stderr"), written, strict=True):
        monkeypatch.setattr(sys, name, io.TextIOWrapper(file, encoding=encoding, errors="strict", write_through=True))
    return written


def said(monkeypatch: pytest.MonkeyPatch, encoding: str, *arguments: str) -> tuple[object, str, str]:
    """The exit code of a command, and what it wrote."""
    out, err = streams(monkeypatch, encoding)
    monkeypatch.setattr(sys, "argv", ["dmr", *arguments])
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(SystemExit) as end:
        main()
    return end.value.code, out.getvalue().decode(encoding), err.getvalue().decode(encoding)


@pytest.mark.parametrize(
    ("encoding", "shape", "bear", "cat"),
    [("ascii", "1x4x4", r"B\xe4r", r"\u732b"), ("latin-1", "1×4×4", "Bär", r"\u732b"), ("utf-8", "1×4×4", "Bär", "猫")],
)
def test_a_table_is_written_in_any_encoding(
    folder: Path, monkeypatch: pytest.MonkeyPatch, encoding: str, shape: str, bear: str, cat: str
) -> None:
    code, out, err = said(monkeypatch, encoding, "data", "check", str(folder))
    assert (code, err) == (0, "")
    assert {shape, bear, cat} <= set(re.split(r"[\s|]+", out))
    assert ("─" in out) == (encoding == "utf-8"), "the lines of a table are of letters that the encoding has"


def test_what_machines_read_is_whole(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code, out, _ = said(monkeypatch, "ascii", "data", "check", str(folder), "--format", "json")
    assert code == 0
    assert json.loads(out)["class_names"] == ["Bär", "猫"]


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
@pytest.mark.parametrize("name", ["größe.yaml", os.fsdecode(b"gr\xff.yaml")])
def test_a_mistake_is_told_whatever_the_file_is_called(
    monkeypatch: pytest.MonkeyPatch, encoding: str, name: str
) -> None:
    code, out, err = said(monkeypatch, encoding, "run", name)
    assert (code, out) == (2, "")
    shown = name.encode(encoding, "backslashreplace").decode(encoding)
    assert err.startswith(f"{shown}: no such file"), err


def test_signs_of_our_own_are_spelled_and_no_column_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    out, _ = streams(monkeypatch, "ascii")
    monkeypatch.setattr(sys, "argv", ["dmr", "--help"])
    with pytest.raises(SystemExit):
        main()
    out.truncate(0)
    table = Table("− reference", "2×2")
    table.add_row("0.1–0.2", "x")
    Console(width=60).print(table)
    lines = out.getvalue().decode("ascii").strip("\0").splitlines()
    assert "- reference" in lines[1]
    assert "0.1-0.2" in lines[3]
    assert len({len(line) for line in lines}) == 1


def test_progress_is_written_in_the_encoding_of_standard_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The screen of a driver is a copy of standard error, whose original takes the engines' noise."""
    streams(monkeypatch, "ascii")
    sys.stderr.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    with engine_noise_to(tmp_path / "noise") as stderr:
        assert (stderr.encoding, stderr.errors) == ("ascii", "backslashreplace")


def test_a_process_whose_locale_is_ascii(folder: Path) -> None:
    clean = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    clean |= {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}
    ran = subprocess.run([DMR, "data", "check", folder], capture_output=True, env=clean)
    assert (ran.returncode, ran.stderr) == (0, b"")
    assert b"1x4x4" in ran.stdout
    assert rb"B\xe4r" in ran.stdout
