"""The hydraulic set in its original layout, prepared; values against NumPy's own reader of text."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dmr.data.arrays import arrays
from dmr.data.dataset import DataError
from dmr.data.prepare import open_release
from dmr.data.prepare.writer import BadFilesError, Prepared

Releases = Callable[[str], Path]
Run = Callable[..., Prepared]
SPLITS = ("train", "val", "test")
SEQUENCES = {
    "temperature": ("TS1", "TS2", "TS3", "TS4"),
    "cooling": ("CE", "CP"),
    "vibration": ("VS1",),
    "efficiency": ("SE",),
}
MEANS = {"pressure": ("PS1", "PS2", "PS3", "PS4", "PS5", "PS6"), "flow": ("FS1", "FS2")}


def cycles(out: Path, split: str) -> np.ndarray:
    """Which cycle a row is, from 0."""
    lines = (out / split / "samples.csv").read_text().splitlines()[1:]
    return np.array([int(line.split(",")[1]) - 1 for line in lines])


def test_values_and_splits(releases: Releases, run: Run, tmp_path: Path) -> None:
    source, out = releases("hydraulic"), tmp_path / "out"
    assert run("hydraulic", source, out).samples == {"train": 30, "val": 15, "test": 15}
    dataset = arrays(out, seed=0)
    assert dataset.class_names == ("90 bar", "100 bar", "115 bar", "130 bar")
    assert [(m.name, m.kind, m.shape) for m in dataset.modalities] == [
        ("temperature", "sequence", (4, 60)),
        ("cooling", "sequence", (2, 60)),
        ("vibration", "sequence", (1, 60)),
        ("efficiency", "sequence", (1, 60)),
        ("pressure", "vector", (6,)),
        ("flow", "vector", (2,)),
    ]
    tables = {name: np.loadtxt(source / f"{name}.txt") for names in (SEQUENCES | MEANS).values() for name in names}
    bars = np.loadtxt(source / "profile.txt")[:, 3]
    for split in SPLITS:
        samples, rows = dataset.splits[split], cycles(out, split)
        assert [float(dataset.class_names[label].split()[0]) for label in samples.targets()] == bars[rows].tolist()
        for modality, names in SEQUENCES.items():
            np.testing.assert_allclose(
                samples.inputs[modality], np.stack([tables[n][rows] for n in names], axis=1), rtol=1e-6
            )
        for modality, names in MEANS.items():
            np.testing.assert_allclose(
                samples.inputs[modality], np.stack([tables[n][rows].mean(axis=1) for n in names], axis=1), rtol=1e-6
            )


@pytest.mark.parametrize(
    ("target", "column", "classes"),
    [
        ("cooler", 0, {"3 %": 3, "20 %": 20, "100 %": 100}),
        ("valve", 1, {"73 %": 73, "80 %": 80, "90 %": 90, "100 %": 100}),
        ("pump", 2, {"severe leakage": 2, "weak leakage": 1, "no leakage": 0}),
    ],
)
def test_every_condition_can_be_the_label(
    releases: Releases, target: str, column: int, classes: dict[str, int]
) -> None:
    source = releases("hydraulic")
    release = open_release("hydraulic", source, target=target)
    values = np.loadtxt(source / "profile.txt")[:, column]
    assert release.class_names == tuple(classes)
    for samples in release.splits.values():
        assert [classes[release.class_names[s.label]] for s in samples] == [values[int(s.name) - 1] for s in samples]


def whole_profile() -> np.ndarray:
    """(2205, 5): conditions nested in long runs, as in the release."""
    cycle = np.arange(2205)
    return np.stack(
        [
            np.array([3, 20, 100])[cycle // 735],
            np.array([100, 73, 80, 90])[cycle // 10 % 4],
            np.array([0, 1, 2])[cycle // 60 % 3],
            np.array([130, 115, 100, 90])[cycle // 184 % 4],
            cycle % 2,
        ],
        axis=1,
    )


def test_whole_blocks_are_held_out_and_every_condition_is_spread_evenly(tmp_path: Path) -> None:
    np.savetxt(tmp_path / "profile.txt", whole_profile(), fmt="%d", delimiter="\t")
    for name in (name for names in (SEQUENCES | MEANS).values() for name in names):
        (tmp_path / f"{name}.txt").write_text("0\n" * 2205)
    splits = {target: open_release("hydraulic", tmp_path, target=target).splits for target in ("valve", "pump")}
    rows = {split: np.array([int(s.name) - 1 for s in splits["valve"][split]]) for split in SPLITS}
    assert {split: len(found) for split, found in rows.items()} == {"train": 1215, "val": 330, "test": 660}
    assert sorted(np.concatenate(list(rows.values()))) == list(range(2205))
    assert sum(len(set(found // 15)) for found in rows.values()) == 147
    for split, found in rows.items():
        assert [s.name for s in splits["pump"][split]] == [str(row + 1) for row in found]
        for column in whole_profile().T[:4]:
            for value in set(column):
                assert abs((column[found] == value).mean() - (column == value).mean()) < 0.08


def edit(file: str, row: int, old: str, new: str) -> Callable[[Path], None]:
    def change(source: Path) -> None:
        lines = (source / file).read_text().splitlines(keepends=True)
        lines[row] = re.sub(old, new, lines[row], count=1)
        (source / file).write_text("".join(lines))

    return change


@pytest.mark.parametrize(
    ("broke", "message"),
    [
        (lambda source: (source / "CP.txt").unlink(), "{}/CP.txt: no such file"),
        (lambda source: (source / "profile.txt").unlink(), "{}/profile.txt: no such file"),
        (
            lambda source: (source / "PS4.txt").write_text((source / "PS4.txt").read_text()[:700_000]),
            "{}/PS4.txt: 18 lines; 60 are needed, one per cycle of profile.txt",
        ),
        (edit("profile.txt", 4, "\t90\t", "\t95\t"), "{}/profile.txt, line 5: accumulator '95'; allowed are 90, 100"),
        (edit("profile.txt", 4, "\t90\t", "\t"), "{}/profile.txt, line 5: `cooler valve pump accumulator stable` is"),
        (
            lambda source: [
                file.write_text("".join(file.read_text().splitlines(keepends=True)[:40])) for file in source.iterdir()
            ],
            "{}/profile.txt: 40 cycles are too few for splits of blocks of 15",
        ),
    ],
)
def test_a_release_that_cannot_be_used(broken: Releases, broke: Callable[[Path], None], message: str) -> None:
    source = broken("hydraulic")
    broke(source)
    with pytest.raises(DataError, match=re.escape(message.format(source))):
        open_release("hydraulic", source)


@pytest.mark.parametrize(
    ("broke", "message"),
    [
        (edit("PS3.txt", 7, "\n", "\t1.5\n"), "PS3.txt, line 8: 6001 values; 6000 are needed"),
        (edit("SE.txt", 7, "\t", "."), "SE.txt, line 8: cannot be read: could not convert string to float"),
        (edit("CE.txt", 7, r"[\d.]+", "nan"), "CE.txt, line 8: NaN or infinity in it"),
    ],
)
def test_a_line_that_cannot_be_used(
    broken: Releases, run: Run, tmp_path: Path, broke: Callable[[Path], None], message: str
) -> None:
    source = broken("hydraulic")
    broke(source)
    with pytest.raises(BadFilesError, match=re.escape(f"{source}/{message}")) as caught:
        run("hydraulic", source, tmp_path / "out")
    assert caught.value.lines[0].endswith("profile.txt, line 8)")
