"""The six public data sets in their original layouts, tiny: half a second of audio, images of a few pixels, one
trial per action."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import soundfile
from PIL import Image
from scipy.io import savemat

EMOTIONS = ("NEU", "HAP", "SAD", "FEA", "DIS", "ANG")
ACTIONS = ("bowling", "playing piano", "tap dancing")
HEIGHT, WIDTH = 24, 32


def write_release(name: str, folder: Path) -> Path:
    """Write a release of a set, or `nyuv2_png`, to a new folder."""
    folder.mkdir(parents=True)
    writers = {
        "crema_d": _crema_d,
        "kinetics_sounds": _kinetics_sounds,
        "casia_surf": _casia_surf,
        "nyuv2": _nyuv2,
        "nyuv2_png": _nyuv2_png,
        "utd_mhad": _utd_mhad,
        "hydraulic": _hydraulic,
    }
    writers[name](folder, np.random.default_rng(11))
    return folder


def _wav(file: Path, draw: np.random.Generator, rate: int, pitch: float) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    time = np.arange(rate // 2) / rate
    tone = 0.4 * np.sin(2 * np.pi * pitch * time) + 0.05 * draw.standard_normal(rate // 2)
    soundfile.write(file, tone, rate, subtype="PCM_16")


def _picture(file: Path, draw: np.random.Generator, size: tuple[int, int], mode: str = "RGB", light: int = 128) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    coarse = draw.integers(max(0, light - 60), min(255, light + 60), (4, 5, len(mode)), dtype=np.uint8)
    Image.fromarray(coarse.squeeze()).resize(size, Image.Resampling.BICUBIC).save(file, quality=95)


def _crema_d(folder: Path, draw: np.random.Generator) -> None:
    """Four actors with every emotion twice in train.csv (which has a BOM), once in test.csv."""
    lists: dict[str, list[str]] = {"train": [], "test": []}
    for actor in range(1001, 1005):
        for label, emotion in enumerate(EMOTIONS):
            for level, part in (("LO", "train"), ("MD", "train"), ("HI", "test")):
                clip = f"{actor}_DFA_{emotion}_{level}"
                _wav(folder / "AudioWAV" / f"{clip}.wav", draw, 16_000, 300.0 * (label + 1))
                for frame in range(1 + label % 3):
                    picture = folder / "Image-01-FPS" / clip / f"{frame:05d}.jpg"
                    _picture(picture, draw, (48, 36), light=40 + 30 * label)
                lists[part].append(f"{clip},{emotion}")
    (folder / "train.csv").write_text("\n".join(lists["train"]) + "\n", encoding="utf-8-sig")
    (folder / "test.csv").write_text("\n".join(lists["test"]) + "\n", encoding="utf-8")


def _kinetics_sounds(folder: Path, draw: np.random.Generator) -> None:
    """Folders are spelled with underscores, the lists with blanks; audio and video are in different orders."""
    for part, clips in (("train", 5), ("test", 2)):
        lines = []
        for label, action in enumerate(ACTIONS):
            for number in range(clips):
                clip = f"{part}-{label}{number}_000010_000020"
                spelled = action.replace(" ", "_")
                _wav(folder / part / "audio" / spelled / f"{clip}.wav", draw, 16_000, 500.0 * (label + 1))
                for frame in (1, 2, 10):
                    picture = folder / part / "video" / spelled / clip / f"frame_{frame}.jpg"
                    _picture(picture, draw, (40, 60), light=60 + 60 * label)
                lines.append(f"{clip},10,{action}")
        (folder / f"my_{part}.txt").write_text("\n".join(reversed(lines)) + "\n")


def _casia_surf(folder: Path, draw: np.random.Generator) -> None:
    names = {"train": "train_list.txt", "val": "val_private_list.txt", "test": "test_private_list.txt"}
    for part, count in (("train", 8), ("val", 4), ("test", 4)):
        lines = []
        for number in range(count):
            live = number % 2
            size = (30 + number, 40 + number)
            paths = [f"{part}/{number:04d}/{kind}.jpg" for kind in ("color", "depth", "ir")]
            for path, mode in zip(paths, ("RGB", "L", "L"), strict=True):
                _picture(folder / path, draw, size, mode, light=90 + 80 * live)
            lines.append(" ".join([*paths, str(live)]))
        (folder / names[part]).write_text("\n".join(lines) + "\n")


def _scenes(draw: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Colour (N, 3, H, W), depth (N, H, W) in metres, labels (N, H, W) of 894 classes."""
    rgb = draw.integers(0, 256, (count, 3, HEIGHT, WIDTH), dtype=np.uint8)
    depth = draw.uniform(0.7, 9.9, (count, HEIGHT, WIDTH)).astype(np.float32)
    labels = draw.integers(0, 895, (count, HEIGHT, WIDTH)).astype(np.uint16)
    labels[:, 0, :5] = 0
    return rgb, depth, labels


def _mapping() -> np.ndarray:
    """Class of 40 of each of 894."""
    return 1 + np.arange(894) % 40


def _nyuv2(folder: Path, draw: np.random.Generator) -> None:
    rgb, depth, labels = _scenes(draw, 7)
    with h5py.File(folder / "nyu_depth_v2_labeled.mat", "w") as file:  # MATLAB's axes come reversed
        file["images"] = rgb.transpose(0, 1, 3, 2)
        file["depths"] = depth.transpose(0, 2, 1)
        file["labels"] = labels.transpose(0, 2, 1)
    train, test = np.array([[1], [3], [4], [6], [7]], np.uint16), np.array([[2], [5]], np.uint16)
    savemat(folder / "splits.mat", {"trainNdxs": train, "testNdxs": test})
    savemat(folder / "classMapping40.mat", {"mapClass": _mapping()[None].astype(np.uint8)})


def _nyuv2_png(folder: Path, draw: np.random.Generator) -> None:
    """The same scenes as in the HDF5 release, depth in whole millimetres."""
    rgb, depth, labels = _scenes(draw, 7)
    mapping = np.concatenate([[0], _mapping()])
    for part, numbers in (("train", (1, 3, 4, 6, 7)), ("test", (2, 5))):
        for number in numbers:
            images = {
                "rgb": rgb[number - 1].transpose(1, 2, 0),
                "depth": (depth[number - 1] * 1000).astype(np.uint16),
                "labels_40": mapping[labels[number - 1]].astype(np.uint8),
            }
            for kind, pixels in images.items():
                file = folder / part / kind / f"{number:04d}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(file)
        (folder / f"{part}.txt").write_text("".join(f"{number:04d}\n" for number in numbers))


def _utd_mhad(folder: Path, draw: np.random.Generator) -> None:
    """Every action of every subject once, depth of the first action alone; lengths differ."""
    for kind in ("Inertial", "Skeleton", "Depth"):
        (folder / kind).mkdir()
    (folder / "Skeleton" / "Skeleton_joint_order.txt").write_text("1. head;\n")
    for action in range(1, 28):
        for subject in range(1, 9):
            name, length = f"a{action}_s{subject}_t1", 5 + (action + subject) % 4
            motion = action + draw.standard_normal((2 * length, 6))
            savemat(folder / "Inertial" / f"{name}_inertial.mat", {"d_iner": motion}, do_compression=True)
            joints = action + draw.standard_normal((20, 3, length))
            savemat(folder / "Skeleton" / f"{name}_skeleton.mat", {"d_skel": joints}, do_compression=True)
            if action == 1:
                video = np.broadcast_to(draw.integers(0, 4000, (1, 1, length), dtype=np.uint16), (240, 320, length))
                savemat(folder / "Depth" / f"{name}_depth.mat", {"d_depth": video}, do_compression=True)


def _hydraulic(folder: Path, draw: np.random.Generator) -> None:
    """Four blocks of 15 cycles, the least that can be divided; of pressure and flow a few values are repeated."""
    cycles = 60
    levels = [(3, 20, 100), (73, 80, 90, 100), (0, 1, 2), (90, 100, 115, 130)]
    profile = [[values[n % len(values)] for values in levels] + [n % 2] for n in range(cycles)]
    _table(folder / "profile.txt", profile)
    counts = {f"PS{n}": 6000 for n in range(1, 7)} | {"FS1": 600, "FS2": 600}
    counts |= dict.fromkeys(("TS1", "TS2", "TS3", "TS4", "CE", "CP", "VS1", "SE"), 60)
    for name, count in counts.items():
        few = [row[3] + draw.integers(0, 99, 20) / 100 for row in profile]
        _table(folder / f"{name}.txt", [values.tolist() * (count // 20) for values in few])


def _table(file: Path, rows: list[list[float]]) -> None:
    file.write_text("".join("\t".join(map(str, row)) + "\n" for row in rows))
