"""UTD-MHAD in its original layout, prepared; values against SciPy's interpolation."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy.interpolate import interp1d
from scipy.io import loadmat, savemat

from dmr.data.arrays import arrays
from dmr.data.dataset import DataError
from dmr.data.prepare import open_release
from dmr.data.prepare.writer import BadFilesError, Prepared

Releases = Callable[[str], Path]
Run = Callable[..., Prepared]


def linear(values: np.ndarray, steps: int) -> np.ndarray:
    """(T, C) at `steps` equal steps, as (C, steps)."""
    old = np.linspace(0.0, 1.0, len(values))
    return np.asarray(interp1d(old, values, axis=0)(np.linspace(0.0, 1.0, steps)).T)


def test_values_and_splits(releases: Releases, run: Run, tmp_path: Path) -> None:
    source, out = releases("utd_mhad"), tmp_path / "out"
    assert run("utd_mhad", source, out).samples == {"train": 81, "val": 27, "test": 108}
    dataset = arrays(out, seed=0)
    assert [(m.name, m.kind, m.shape) for m in dataset.modalities] == [
        ("accelerometer", "sequence", (3, 128)),
        ("gyroscope", "sequence", (3, 128)),
        ("skeleton", "sequence", (60, 64)),
    ]
    assert (dataset.num_classes, dataset.class_names[0], dataset.class_names[26]) == (27, "swipe left", "squat")
    for split, subjects in (("train", {"1", "3", "5"}), ("val", {"7"}), ("test", {"2", "4", "6", "8"})):
        samples = dataset.splits[split]
        names = [line.split(",")[1] for line in (out / split / "samples.csv").read_text().splitlines()[1:]]
        assert {name.split("_")[1][1:] for name in names} == subjects
        assert samples.targets().tolist() == [int(name.split("_")[0][1:]) - 1 for name in names]
        for row in (0, len(names) - 1):
            motion = loadmat(source / f"Inertial/{names[row]}_inertial.mat")["d_iner"]
            joints = loadmat(source / f"Skeleton/{names[row]}_skeleton.mat")["d_skel"]
            centred = np.array([[joints[j, axis] - joints[3, axis, 0] for axis in range(3)] for j in range(20)])
            expected = {
                "accelerometer": linear(motion[:, :3], 128),
                "gyroscope": linear(motion[:, 3:], 128),
                "skeleton": linear(centred.reshape(60, -1).T, 64),
            }
            for name, values in expected.items():
                np.testing.assert_allclose(samples.inputs[name][row], values, atol=1e-5)


def test_depth_is_a_modality_where_it_is_asked_for(broken: Releases, run: Run, tmp_path: Path) -> None:
    source, out = broken("utd_mhad"), tmp_path / "out"
    draw = np.random.default_rng(0)
    video = draw.integers(0, 4000, (240, 320, 31), dtype=np.uint16)
    savemat(source / "Depth" / "a1_s7_t1_depth.mat", {"d_depth": video})
    with pytest.raises(BadFilesError, match=r"Depth/a2_s1_t1_depth.mat: no such file .*\(swipe right, subject 1"):
        run("utd_mhad", source, out, depth=True)
    assert run("utd_mhad", source, out, depth=True, skip_bad=True).samples == {"train": 3, "val": 1, "test": 4}
    dataset = arrays(out, seed=0)
    assert (dataset.modalities[3].name, dataset.modalities[3].shape) == ("depth", (16, 1, 60, 80))
    frames = dataset.splits["val"].inputs["depth"][0]
    for new, old in ((0, 0), (1, 2), (8, 16), (15, 30)):
        blocks = [[video[4 * y : 4 * y + 4, 4 * x : 4 * x + 4, old].mean() for x in range(80)] for y in range(60)]
        np.testing.assert_allclose(frames[new, 0], blocks, rtol=1e-3)


def change(file: str, **variables: np.ndarray) -> Callable[[Path], None]:
    return lambda source: savemat(source / file, variables)


def cut(file: str, size: int) -> Callable[[Path], None]:
    return lambda source: (source / file).write_bytes((source / file).read_bytes()[:size]) and None


def overwrite(source: Path) -> None:
    content = bytearray((source / SKELETON).read_bytes())
    content[300:320] = bytes(20)
    (source / SKELETON).write_bytes(content)


INERTIAL, SKELETON = "Inertial/a3_s2_t1_inertial.mat", "Skeleton/a3_s2_t1_skeleton.mat"


@pytest.mark.parametrize(
    ("broke", "message"),
    [
        (lambda source: (source / SKELETON).unlink(), f"{SKELETON}: no such file or directory"),
        (cut(INERTIAL, 0), f"{INERTIAL}: an empty file"),
        (cut(INERTIAL, 60), f"{INERTIAL}: not a readable MATLAB file: "),
        (cut(INERTIAL, 300), f"{INERTIAL}: not a readable MATLAB file: "),
        (overwrite, f"{SKELETON}: not a readable MATLAB file: "),
        (change(INERTIAL, iner=np.ones((9, 6))), f"{INERTIAL}: no variable d_iner in it"),
        (
            change(INERTIAL, d_iner=np.ones((9, 5))),
            f"{INERTIAL}: d_iner: numbers in T×6 are needed, got float64 in 9×5",
        ),
        (
            change(INERTIAL, d_iner=np.ones((0, 6))),
            f"{INERTIAL}: d_iner: numbers in T×6 are needed, got float64 in 0×6",
        ),
        (change(SKELETON, d_skel=np.ones((20, 3))), f"{SKELETON}: d_skel: numbers in 20×3×T are needed"),
        (
            change(SKELETON, d_skel=np.full((20, 3, 5), "x")),
            f"{SKELETON}: d_skel: numbers in 20×3×T are needed, got <U",
        ),
        (change(INERTIAL, d_iner=np.full((9, 6), np.nan)), f"{INERTIAL}: d_iner: NaN or infinity in it"),
    ],
    ids=[
        "missing",
        "empty",
        "in its head",
        "truncated",
        "overwritten",
        "name",
        "shape",
        "length",
        "axes",
        "text",
        "nan",
    ],
)
def test_a_file_that_cannot_be_used(
    broken: Releases, run: Run, tmp_path: Path, broke: Callable[[Path], None], message: str
) -> None:
    source = broken("utd_mhad")
    broke(source)
    with pytest.raises(BadFilesError, match=re.escape(f"{source}/{message}")) as caught:
        run("utd_mhad", source, tmp_path / "out")
    assert len(caught.value.lines) == 2
    assert caught.value.lines[0].endswith("(wave, subject 2, trial 1)")


def without_subject(source: Path) -> None:
    for file in source.glob("*/*_s7_*.mat"):
        file.unlink()


@pytest.mark.parametrize(
    ("broke", "message"),
    [
        (without_subject, "{}: no files of subject 7; the release has those of 1 to 8"),
        (
            lambda source: (source / INERTIAL).rename(source / "Inertial/a28_s2_t1_inertial.mat"),
            "{}/Inertial/a28_s2_t1_inertial.mat: actions are 1 to 27, subjects 1 to 8",
        ),
        (lambda source: (source / "Skeleton").rename(source / "skeletons"), "{}/Skeleton: no such folder"),
    ],
)
def test_a_release_that_cannot_be_used(broken: Releases, broke: Callable[[Path], None], message: str) -> None:
    source = broken("utd_mhad")
    broke(source)
    with pytest.raises(DataError, match=re.escape(message.format(source))):
        open_release("utd_mhad", source)
