"""Hydraulic: the condition of a hydraulic test rig, by the sensors of one load cycle of 60 s.

Source: Helwig, Pignanelli, Schuetze, "Condition Monitoring of a Complex Hydraulic System Using Multivariate
Statistics", I2MTC 2015; UCI Machine Learning Repository 447. On disk, a line per cycle, values apart by tabs:
    PS1.txt to PS6.txt: pressure, 6000 values (100 Hz)
    FS1.txt, FS2.txt: volume flow, 600 values (10 Hz)
    TS1.txt to TS4.txt, CE.txt, CP.txt, VS1.txt, SE.txt: temperature, cooling efficiency and power, vibration,
        efficiency factor, 60 values (1 Hz)
    profile.txt: cooler, valve, pump, accumulator, stable
EPS1.txt, the power of the motor, is not read.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from dmr.data.dataset import DataError, Modality
from dmr.data.prepare.files import BadFile, Files
from dmr.data.prepare.release import SPLIT_SEED, Arrays, Release, Sample, Stored, check_folder, read_lines, split_line

Target = Literal["cooler", "valve", "pump", "accumulator"]

CLASSES: dict[str, dict[str, str]] = {  # by the numbers in the columns of profile.txt, the worst condition first
    "cooler": {"3": "3 %", "20": "20 %", "100": "100 %"},
    "valve": {"73": "73 %", "80": "80 %", "90": "90 %", "100": "100 %"},
    "pump": {"2": "severe leakage", "1": "weak leakage", "0": "no leakage"},
    "accumulator": {"90": "90 bar", "100": "100 bar", "115": "115 bar", "130": "130 bar"},
}
PROFILE = "profile.txt"
SECONDS = 60
BLOCK, TEST, VAL = 15, 0.3, 0.15  # cycles of a block; shares of the blocks
DIVISIONS = 2000


class Sensors(NamedTuple):
    """The files of a modality, their values per second, and their unit."""

    files: tuple[str, ...]
    rate: int
    unit: str

    @property
    def stored(self) -> str:
        return "values" if self.rate == 1 else "means of the cycle"

    @property
    def shape(self) -> tuple[int, ...]:
        """Of what is stored."""
        return (len(self.files), SECONDS) if self.rate == 1 else (len(self.files),)


MODALITIES = {
    "temperature": Sensors(tuple(f"TS{n}.txt" for n in range(1, 5)), 1, "°C"),
    "cooling": Sensors(("CE.txt", "CP.txt"), 1, "%, kW"),
    "vibration": Sensors(("VS1.txt",), 1, "mm/s"),
    "efficiency": Sensors(("SE.txt",), 1, "%"),
    "pressure": Sensors(tuple(f"PS{n}.txt" for n in range(1, 7)), 100, "bar"),
    "flow": Sensors(("FS1.txt", "FS2.txt"), 10, "l/min"),
}
FILES = tuple(file for sensors in MODALITIES.values() for file in sensors.files)


def hydraulic(source: Path, target: Target) -> Release:
    """The release below `source`, with one of its four conditions as the label.

    Raises:
        DataError: a file is missing or has not a line per cycle, or a line of profile.txt cannot be used.
    """
    check_folder(source)
    where, conditions = _profile(source / PROFILE)
    lines = {file: _line_starts(source / file, len(where)) for file in FILES}
    labels = conditions[:, list(CLASSES).index(target)].tolist()
    samples = [
        Sample(str(n + 1), listed, FILES, label) for n, (listed, label) in enumerate(zip(where, labels, strict=True))
    ]
    return Release(
        name="hydraulic",
        source=source,
        task="classification",
        class_names=tuple(CLASSES[target].values()),
        stored=tuple(
            Stored(
                Modality(name, "sequence" if sensors.rate == 1 else "vector", sensors.shape),
                "float32",
                {"stored": f"{sensors.stored} of {', '.join(sensors.files)}", "unit": sensors.unit},
            )
            for name, sensors in MODALITIES.items()
        ),
        label_shape=(),
        splits={split: tuple(samples[row] for row in rows) for split, rows in _divided(source, conditions).items()},
        read=partial(read_cycle, lines),
        hashed=(PROFILE, *FILES),
        about={
            "source": "Condition monitoring of hydraulic systems, Helwig, Pignanelli and Schuetze 2015, UCI 447",
            "licence": "CC BY 4.0",
            "target": target,
            "split": f"blocks of {BLOCK} consecutive cycles, since neighbours are nearly alike: 30 % test, 15 % val; "
            f"of {DIVISIONS} drawn divisions the one most even in the classes of all four conditions",
        },
    )


def read_cycle(lines: Mapping[str, list[int]], sample: Sample, files: Files) -> Arrays:
    """Each modality, (sensors, 60) or (sensors,), and `label`; `lines` says where the lines of each file begin.

    Raises:
        BadFile: a line cannot be read, has another number of values, or one that is not finite.
    """
    row = int(sample.name) - 1
    arrays: dict[str, npt.NDArray[np.float32] | npt.NDArray[np.int64]] = {
        "label": np.asarray(sample.label, dtype=np.int64)
    }
    for name, sensors in MODALITIES.items():
        values = np.array([_line(files, file, row, lines[file], SECONDS * sensors.rate) for file in sensors.files])
        arrays[name] = (values if sensors.rate == 1 else values.mean(axis=1)).astype(np.float32)
    return arrays


def _line(files: Files, file: str, row: int, starts: list[int], count: int) -> npt.NDArray[np.float64]:
    where = f"{file}, line {row + 1}"
    try:
        with (files.root / file).open("rb") as stream:
            stream.seek(starts[row])
            line = stream.read(starts[row + 1] - starts[row])
        values = np.array(line.split(), dtype=np.float64)
    except (OSError, ValueError) as error:
        raise BadFile(where, f"cannot be read: {error}") from None
    files.count(line)
    if len(values) != count:
        raise BadFile(where, f"{len(values)} values; {count} are needed")
    if not np.isfinite(values).all():
        raise BadFile(where, "NaN or infinity in it")
    return values


def _profile(file: Path) -> tuple[list[str], npt.NDArray[np.int64]]:
    """Where each cycle stands, and the class (N, 4) of its conditions.

    Raises:
        DataError: a line cannot be used.
    """
    listed, conditions = [], []
    for where, line in read_lines(file):
        found = split_line(where, line, (*CLASSES, "stable"), None)
        for (condition, classes), value in zip(CLASSES.items(), found, strict=False):
            if value not in classes:
                raise DataError(f"{where}: {condition} {value!r}; allowed are {', '.join(classes)}")
        listed.append(where)
        conditions.append([list(classes).index(v) for classes, v in zip(CLASSES.values(), found, strict=False)])
    return listed, np.array(conditions, dtype=np.int64)


def _line_starts(file: Path, cycles: int) -> list[int]:
    """Where each line of a file begins, and where the last one ends.

    Raises:
        DataError: the file cannot be read or has another number of lines.
    """
    try:
        with file.open("rb") as stream:
            starts = list(accumulate(map(len, stream), initial=0))
    except FileNotFoundError:
        raise DataError(f"{file}: no such file") from None
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror}") from None
    if len(starts) != cycles + 1:
        raise DataError(f"{file}: {len(starts) - 1} lines; {cycles} are needed, one per cycle of {PROFILE}")
    return starts


def _divided(source: Path, conditions: npt.NDArray[np.int64]) -> dict[str, list[int]]:
    """The rows of each split, by whole blocks: of the divisions drawn, the one in which the share of a class (of any of
    the conditions, (N, 4)) in a split is at most farthest from its share in all.

    Raises:
        DataError: too few cycles for a block in each split.
    """
    blocks = np.arange(len(conditions)) // BLOCK
    count = blocks[-1] + 1
    test, val = round(TEST * count), round(VAL * count)
    if not test or not val:
        raise DataError(f"{source / PROFILE}: {len(conditions)} cycles are too few for splits of blocks of {BLOCK}")
    classes = np.concatenate([np.eye(len(c))[conditions[:, n]] for n, c in enumerate(CLASSES.values())], axis=1)
    sums = np.add.reduceat(classes, np.arange(0, len(classes), BLOCK))  # (blocks, classes of all conditions)
    shares = classes.mean(axis=0)

    def unevenness(order: npt.NDArray[np.int64]) -> float:
        parts = [sums[part].sum(axis=0) for part in np.split(order, (test, test + val))]
        return max(float(np.abs(part / (part.sum() / len(CLASSES)) - shares).max()) for part in parts)

    draw = np.random.default_rng(SPLIT_SEED)
    best = min((draw.permutation(count) for _ in range(DIVISIONS)), key=unevenness)
    parts = dict(zip(("test", "val", "train"), np.split(best, (test, test + val)), strict=True))
    return {split: np.flatnonzero(np.isin(blocks, parts[split])).tolist() for split in ("train", "val", "test")}
