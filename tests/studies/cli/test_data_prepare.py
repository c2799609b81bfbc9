"""`dmr data prepare`: exit codes, what is on which stream, Ctrl-C."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from dmr.studies.cli.entry_point import app


@pytest.fixture
def source(tmp_path: Path, write_release: Callable[[str, Path], Path]) -> Path:
    return write_release("casia_surf", tmp_path / "casia")


def dmr(*arguments: object) -> Result:
    """`dmr data prepare` in this process."""
    return CliRunner().invoke(app, ["data", "prepare", *map(str, arguments), "--workers", "1"])


def test_a_set_is_prepared_once(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    first = dmr("casia_surf", "--source", source, "--out", out)
    assert (first.exit_code, first.stdout) == (0, f"{out}: casia_surf is ready: 8 train, 4 val, 4 test\n")
    assert first.stderr.splitlines() == ["train: 8/8", "val: 4/4", "test: 4/4"]
    again = dmr("casia_surf", "--source", source, "--out", out)
    assert (again.exit_code, again.stdout) == (0, f"{out}: casia_surf is there already: 8 train, 4 val, 4 test\n")


def test_bad_files_are_a_failure_that_can_be_skipped(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (source / "val" / "0001" / "ir.jpg").write_bytes(b"")
    bad = dmr("casia_surf", "--source", source, "--out", out)
    assert (bad.exit_code, bad.stdout) == (1, "")
    assert bad.stderr.splitlines()[-2:] == [
        f"{source}/val/0001/ir.jpg: an empty file ({source}/val_private_list.txt, line 2)",
        "casia_surf: 1 of 16 samples cannot be read; mend them and run again (what is done is kept), "
        "or leave them out with --skip-bad",
    ]
    left_out = dmr("casia_surf", "--source", source, "--out", out, "--skip-bad")
    assert (left_out.exit_code, left_out.stdout) == (0, f"{out}: casia_surf is ready: 8 train, 3 val, 4 test\n")
    assert f"val: 1 sample left out, see {out / 'val' / 'skipped.csv'}" in left_out.stderr


def test_a_mistake_is_one_line_and_nothing_is_written(source: Path, tmp_path: Path) -> None:
    (source / "train_list.txt").write_text("a b c 3\n")
    for arguments, line in [
        (("--source", source), f"{source}/train_list.txt, line 1: label '3'; allowed are 0 (spoof) and 1 (live)"),
        (("--source", tmp_path / "no"), f"{tmp_path}/no: no such folder"),
        (("--source", source, "--split", "actor"), "--split: crema_d has this option, casia_surf has not"),
        (("--source", source, "--target", "pump"), "--target: hydraulic has this option, casia_surf has not"),
        (("--source", source, "--depth"), "--depth: utd_mhad has this option, casia_surf has not"),
    ]:
        refused = dmr("casia_surf", *arguments, "--out", tmp_path / "out")
        assert (refused.exit_code, refused.stdout, refused.stderr) == (2, "", line + "\n")
    assert not (tmp_path / "out").exists()
    assert dmr("imagenet", "--source", source, "--out", tmp_path / "out").exit_code == 2
    unknown = dmr("hydraulic", "--source", source, "--target", "stable", "--out", tmp_path / "out")
    assert unknown.exit_code == 2
    assert "'cooler', 'valve', 'pump', 'accumulator'" in " ".join(unknown.stderr.replace("│", " ").split())


def test_ctrl_c_and_then_it_goes_on(
    tmp_path: Path, write_release: Callable[[str, Path], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out, programs = write_release("crema_d", tmp_path / "crema"), tmp_path / "out", tmp_path / "programs"
    (source / "Image-01-FPS").rename(source / "frames")
    (source / "test.csv").write_text("".join((source / "test.csv").read_text().splitlines(keepends=True)[:2]))
    (source / "VideoFlash").mkdir()
    for clip in (source / "frames").iterdir():
        (clip / "00000.jpg").rename(source / "VideoFlash" / f"{clip.name}.flv")
    programs.mkdir()
    ffmpeg = programs / "ffmpeg"  # takes its time, and "cuts" a video into itself
    ffmpeg.write_text('#!/bin/sh\nsleep 0.4\nfor last; do :; done\ncp "$5" "${last%/*}/00001.jpg"\n')
    ffmpeg.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    command = [
        sys.executable,
        "-c",
        "from dmr.studies.cli.entry_point import main; main()",
        "data",
        "prepare",
        "crema_d",
    ]
    arguments = ["--source", str(source), "--out", str(out), "--workers", "2"]
    process = subprocess.Popen(
        [*command, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    done, deadline = out / "train.partial" / "done.log", time.monotonic() + 60
    while not (done.exists() and done.read_text()):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    printed, said = process.communicate(timeout=60)
    assert (process.returncode, printed) == (130, "")
    assert said.splitlines()[-1] == "interrupted; the same command goes on from here"
    assert "Traceback" not in said
    before = len({line.split()[0] for line in done.read_text().splitlines()})
    assert 0 < before < 36
    ffmpeg.write_text(ffmpeg.read_text().replace("sleep 0.4\n", 'echo "$5" >> "$0.log"\n'))
    assert dmr("crema_d", "--source", source, "--out", out).stdout.endswith("ready: 36 train, 12 val, 2 test\n")
    assert len((programs / "ffmpeg.log").read_text().splitlines()) == 50 - before
