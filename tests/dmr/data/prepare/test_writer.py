"""What is half-written is never taken for whole, and what is done is not done again."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from dmr.data.arrays import arrays
from dmr.data.dataset import DataError
from dmr.data.prepare import open_release, writer
from dmr.data.prepare.files import Files
from dmr.data.prepare.release import Arrays, Sample
from dmr.data.prepare.split import PrepareError
from dmr.data.prepare.writer import BadFilesError, Prepared, prepare

Releases = Callable[[str], Path]
Run = Callable[..., Prepared]


@pytest.fixture
def source(releases: Releases, tmp_path: Path) -> Path:
    """A release of CASIA-SURF, to be broken: 8 + 4 + 4 samples of three images."""
    return shutil.copytree(releases("casia_surf"), tmp_path / "casia")


@pytest.fixture(scope="session")
def whole(releases: Releases, run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same release, prepared without an incident."""
    out = tmp_path_factory.mktemp("whole") / "casia"
    run("casia_surf", releases("casia_surf"), out)
    return out


class Counted(NamedTuple):
    read: Counter[str]
    prepared: Prepared


def counted(source: Path, out: Path, skip_bad: bool = False) -> Counted:
    """Prepare, and which samples were read for it."""
    release = open_release("casia_surf", source)
    read: Counter[str] = Counter()

    def reader(sample: Sample, files: Files) -> Arrays:
        read[sample.name] += 1
        return release.read(sample, files)

    counting = replace(release, read=reader)
    return Counted(read, prepare(counting, out, workers=1, skip_bad=skip_bad, progress=lambda *_: None))


def assert_same(out: Path, whole: Path) -> None:
    """Every file is the same to the last byte, but the manifest's path of the source; nothing else is left."""
    files = {file.relative_to(whole) for file in whole.rglob("*")}
    assert {file.relative_to(out) for file in out.rglob("*")} == files
    for file in files:
        if (whole / file).is_file() and file.name != "manifest.json":
            assert (out / file).read_bytes() == (whole / file).read_bytes(), file
    manifests = [json.loads((folder / "manifest.json").read_text()) | {"source": ""} for folder in (out, whole)]
    assert manifests[0] == manifests[1]


def cut(file: Path) -> None:
    """Its end is lost; half of an image this small would be a part of its header."""
    file.write_bytes(file.read_bytes()[:-60])


def test_bad_files_are_all_named_and_read_again_once_they_are_mended(source: Path, tmp_path: Path, whole: Path) -> None:
    out, kept = tmp_path / "out", tmp_path / "kept"
    bad = ["train/0002/depth.jpg", "train/0005/color.jpg", "test/0003/ir.jpg"]
    for name in bad:
        (kept / name).parent.mkdir(parents=True)
        shutil.copy(source / name, kept / name)
    cut(source / bad[0])
    (source / bad[1]).unlink()
    (source / bad[2]).write_bytes(b"")
    with pytest.raises(BadFilesError, match="3 of 16 samples cannot be read; mend them and run again") as caught:
        counted(source, out)
    lists = [source / name for name in ("train_list.txt", "train_list.txt", "test_private_list.txt")]
    reasons = ("a damaged image: image file is truncated", "no such file or directory", "an empty file")
    for line, name, reason, listed, number in zip(caught.value.lines, bad, reasons, lists, (3, 6, 4), strict=False):
        assert line.startswith(f"{source / name}: {reason}")
        assert line.endswith(f"({listed}, line {number})")
    assert (out / "bad_files.txt").read_text().splitlines() == caught.value.lines[:3]
    with pytest.raises(DataError, match=r"dataset.yaml: no such file"):
        arrays(out, seed=0)
    assert not (out / "train").exists()
    assert not (out / "test").exists()
    assert (out / "val").exists()
    shutil.copytree(kept, source, dirs_exist_ok=True)
    assert counted(source, out).read == Counter(
        {"train/0002/color.jpg": 1, "train/0005/color.jpg": 1, "test/0003/color.jpg": 1}
    )
    assert_same(out, whole)
    read, prepared = counted(source, out)
    assert (read, prepared.samples, prepared.already) == (Counter(), {"train": 8, "val": 4, "test": 4}, True)


def test_bad_samples_are_left_out_and_recorded(source: Path, tmp_path: Path, whole: Path) -> None:
    out = tmp_path / "out"
    cut(source / "train/0002/depth.jpg")
    (source / "train/0007/ir.jpg").unlink()
    prepared = counted(source, out, skip_bad=True).prepared
    assert prepared == ({"train": 6, "val": 4, "test": 4}, {"train": 2, "val": 0, "test": 0}, False)
    kept = [0, 1, 3, 4, 5, 6]
    for name in ("rgb", "depth", "ir", "label"):
        rows = np.load(out / "train" / f"{name}.npy")
        np.testing.assert_array_equal(rows, np.load(whole / "train" / f"{name}.npy")[kept])
    assert len(arrays(out, seed=0).splits["train"]) == 6
    manifest = json.loads((out / "manifest.json").read_text())["splits"]["train"]
    assert (manifest["listed"], manifest["samples"]) == (8, 6)
    assert [(entry["name"], entry["file"]) for entry in manifest["skipped"]] == [
        ("train/0002/color.jpg", "train/0002/depth.jpg"),
        ("train/0007/color.jpg", "train/0007/ir.jpg"),
    ]
    assert manifest["skipped"][1]["reason"] == "no such file or directory"
    assert sorted(path.name for path in out.iterdir()) == ["dataset.yaml", "manifest.json", "test", "train", "val"]
    assert counted(source, out).prepared.skipped == {"train": 2, "val": 0, "test": 0}


def test_a_split_without_a_readable_sample_is_no_split(source: Path, tmp_path: Path) -> None:
    shutil.rmtree(source / "val")
    with pytest.raises(PrepareError, match=r"val.partial: no sample of val can be read"):
        counted(source, tmp_path / "out", skip_bad=True)
    assert not (tmp_path / "out" / "dataset.yaml").exists()


def test_at_most_twenty_bad_files_are_shown(source: Path, tmp_path: Path) -> None:
    lines = [f"gone/{number}.jpg a b 1\n" for number in range(30)]
    with (source / "train_list.txt").open("a") as file:
        file.writelines(lines)
    with pytest.raises(BadFilesError, match="30 of 46 samples cannot be read") as caught:
        counted(source, tmp_path / "out")
    assert len(caught.value.lines) == 22
    assert caught.value.lines[20] == f"... and 10 more, all in {tmp_path / 'out' / 'bad_files.txt'}"
    assert len((tmp_path / "out" / "bad_files.txt").read_text().splitlines()) == 30


KILLED = """
import os, signal, sys
from dataclasses import replace
from pathlib import Path
from dmr.data.prepare import done_log, open_release
from dmr.data.prepare.writer import prepare
import dmr.data.prepare.split as split
done_log.FLUSH_SECONDS = 0.0
split.BATCH = 2
release = open_release("casia_surf", Path(sys.argv[1]))
def read(sample, files):
    if sample.name == sys.argv[3]:
        os.kill(os.getpid(), signal.SIGKILL)
    return release.read(sample, files)
prepare(replace(release, read=read), Path(sys.argv[2]), workers=1, skip_bad=False, progress=lambda *_: None)
"""


@pytest.mark.parametrize(("name", "again"), [("train/0005/color.jpg", 12), ("test/0000/color.jpg", 4)])
def test_after_a_kill_it_goes_on(source: Path, tmp_path: Path, whole: Path, name: str, again: int) -> None:
    out = tmp_path / "out"
    ran = subprocess.run([sys.executable, "-c", KILLED, str(source), str(out), name], timeout=60)
    assert ran.returncode == -signal.SIGKILL
    assert not (out / "dataset.yaml").exists()
    partial = out / f"{name.split('/')[0]}.partial"
    with (partial / "done.log").open("a") as log:
        log.write("7 12345 abc")  # a line that was being written
    read, prepared = counted(source, out)
    assert (sum(read.values()), prepared.already) == (again, False)
    assert_same(out, whole)


def test_several_processes_write_the_same(source: Path, tmp_path: Path, whole: Path) -> None:
    shown = []
    out, release = tmp_path / "out", open_release("casia_surf", source)

    prepare(release, out, workers=2, skip_bad=False, progress=lambda *progress: shown.append(progress))
    assert shown[0] == ("train", 0, 8)
    assert shown[-1] == ("test", 4, 4)
    assert_same(out, whole)


def test_a_process_that_dies_ends_the_work_in_one_line(source: Path, tmp_path: Path, whole: Path) -> None:
    with (source / "train_list.txt").open("a") as file:
        file.writelines((source / "train_list.txt").read_text().splitlines(keepends=True) * 30)
    release, out = open_release("casia_surf", source), tmp_path / "out"

    def kill_workers(_: str, done: int, __: int) -> None:
        for child in multiprocessing.active_children() if done else ():
            os.kill(child.pid or 0, signal.SIGKILL)

    with pytest.raises(
        PrepareError, match=r"train.partial: a worker process died \(out of memory\?\); run again"
    ) as caught:
        prepare(release, out, workers=2, skip_bad=False, progress=kill_workers)
    assert "\n" not in str(caught.value)
    read, _ = counted(source, out)
    assert 0 < sum(read.values()) < 248 + 8


def test_a_full_disk_is_one_line_and_then_goes_on(source: Path, tmp_path: Path, whole: Path) -> None:
    out, mended = tmp_path / "out", (source / "train/0002/depth.jpg").read_bytes()
    cut(source / "train/0002/depth.jpg")
    with pytest.raises(BadFilesError, match="1 of 16"):
        counted(source, out)
    (source / "train/0002/depth.jpg").write_bytes(mended)
    array = out / "train.partial" / "depth.npy"
    array.rename(tmp_path / "aside")
    array.symlink_to("/dev/full")
    with pytest.raises(OSError, match=re.escape(f"[Errno 28] No space left on device: '{array}'")):
        counted(source, out)
    assert not (out / "train").exists()
    assert not (out / "dataset.yaml").exists()
    (tmp_path / "aside").rename(array)
    assert sum(counted(source, out).read.values()) == 1
    assert_same(out, whole)


def test_the_space_is_checked_before_anything_is_written(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**6, 10**6, 900_000))  # type: ignore[attr-defined]
    needed = 16 * (5 * 112 * 112 + 8)
    with pytest.raises(DataError, match=rf"out: {needed / 1e9:.3g} GB are needed, 0.0009 GB are free"):
        counted(source, tmp_path / "deep" / "out")
    assert not (tmp_path / "deep").exists()


def test_a_crash_before_the_description_costs_no_reading(
    source: Path, tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(*_: object) -> str:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(writer, "describe", crash)
        with pytest.raises(OSError, match="Input/output error"):
            counted(source, tmp_path / "out")
    assert counted(source, tmp_path / "out").read == Counter()
    assert_same(tmp_path / "out", whole)


def test_a_folder_with_something_else_is_left_alone(source: Path, tmp_path: Path) -> None:
    foreign, begun, done = tmp_path / "foreign", tmp_path / "begun", tmp_path / "done"
    (foreign / "val").mkdir(parents=True)
    with pytest.raises(DataError, match=r"foreign/val: there already, and not from `dmr data prepare`"):
        counted(source, foreign)
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"file: a folder is needed, this is a file"):
        counted(source, tmp_path / "file")
    counted(source, done)
    image = (source / "train/0002/ir.jpg").read_bytes()
    (source / "train/0002/ir.jpg").unlink()
    with pytest.raises(BadFilesError, match="1 of 16"):
        counted(source, begun)
    (source / "train/0002/ir.jpg").write_bytes(image)
    text = (source / "test_private_list.txt").read_text()
    (source / "test_private_list.txt").write_text("".join(text.splitlines(keepends=True)[:-1]))
    with pytest.raises(DataError, match=r"begun: begun as another data set, or as casia_surf from other lists"):
        counted(source, begun)
    with pytest.raises(DataError, match=r"done/dataset.yaml: another data set is there already, or casia_surf from"):
        counted(source, done)


def test_two_at_once_do_not_write_to_one_folder(source: Path, tmp_path: Path) -> None:
    release, out = open_release("casia_surf", source), tmp_path / "out"

    def second(*_: object) -> None:
        with pytest.raises(DataError, match="out: another `dmr data prepare` is writing here"):
            counted(source, out)

    prepare(release, out, workers=1, skip_bad=False, progress=second)


def test_the_manifest_says_what_went_in(source: Path, whole: Path) -> None:
    manifest = json.loads((whole / "manifest.json").read_text())
    text = (source / "train_list.txt").read_bytes()
    assert manifest["files"]["train_list.txt"] == {"bytes": len(text), "sha256": hashlib.sha256(text).hexdigest()}
    images = [(source / "val" / "0001" / f"{kind}.jpg").read_bytes() for kind in ("color", "depth", "ir")]
    line = (whole / "val" / "samples.csv").read_text().splitlines()[2]
    content = b"".join(images)
    assert line == f"1,val/0001/color.jpg,{len(content)},{hashlib.sha256(content).hexdigest()}"
    digest = hashlib.sha256((whole / "val" / "samples.csv").read_bytes()).hexdigest()
    assert manifest["splits"]["val"]["samples_csv_sha256"] == digest
    assert manifest["splits"]["val"]["arrays"]["ir"] == {
        "type": "uint8",
        "shape": [4, 1, 112, 112],
        "bytes": 4 * 112**2,
    }
    assert manifest["versions"]["numpy"] == np.__version__
    assert manifest["parameters"]["rgb"]["mean"] == 127.5
