"""Each release in its original layout, prepared and opened as arrays; values against an independent computation."""

from __future__ import annotations

import csv
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import soundfile
import yaml
from PIL import Image
from scipy.io import loadmat, savemat
from scipy.signal import resample_poly, stft

from dmr.data.arrays import arrays
from dmr.data.dataset import DataError
from dmr.data.prepare import open_release
from dmr.data.prepare.writer import BadFilesError, Prepared

Releases = Callable[[str], Path]
Run = Callable[..., Prepared]
EMOTIONS = {"NEU": 0, "HAP": 1, "SAD": 2, "FEA": 3, "DIS": 4, "ANG": 5}


def names(out: Path, split: str) -> list[str]:
    """Which sample a row is."""
    with (out / split / "samples.csv").open() as file:
        return [row["name"] for row in csv.DictReader(file)]


def spectrogram(samples: np.ndarray, n_fft: int, hop: int) -> np.ndarray:
    window = np.hanning(n_fft + 1)[:-1]
    _, _, transform = stft(samples, window=window, nperseg=n_fft, noverlap=n_fft - hop, boundary="even", padded=False)
    return np.log(np.abs(transform) * window.sum() + 1e-7)


def frame(file: Path) -> np.ndarray:
    """(3, 256, 256), by Pillow: the fixtures' shorter edge is resized exactly."""
    picture = Image.open(file)
    width, height = (round(edge * 256 / min(picture.size)) for edge in picture.size)
    picture = picture.resize((width, height), Image.Resampling.BILINEAR)
    left, top = (width - 256) // 2, (height - 256) // 2
    return np.asarray(picture.crop((left, top, left + 256, top + 256))).transpose(2, 0, 1)


def test_crema_d(releases: Releases, run: Run, tmp_path: Path) -> None:
    source, out = releases("crema_d"), tmp_path / "out"
    assert run("crema_d", source, out) == Prepared(
        {"train": 36, "val": 12, "test": 24}, dict.fromkeys(("train", "val", "test"), 0), False
    )
    dataset = arrays(out, seed=0)
    assert dataset.name == "crema_d"
    assert dataset.class_names == tuple(EMOTIONS)
    assert [(m.name, m.kind, m.shape) for m in dataset.modalities] == [
        ("audio", "spectrogram", (1, 257, 188)),
        ("video", "image", (3, 256, 256)),
    ]
    for split, samples in dataset.splits.items():
        clips = names(out, split)
        assert samples.targets().tolist() == [EMOTIONS[clip.split("_")[2]] for clip in clips]
        for row in (0, 7):
            sound, _ = soundfile.read(source / "AudioWAV" / f"{clips[row]}.wav")
            sound = np.tile(resample_poly(sound, 441, 320), 6)[: 3 * 22_050]
            expected = spectrogram(np.clip(sound, -1, 1), 512, 353)
            expected = (expected - expected.mean()) / expected.std()
            np.testing.assert_allclose(samples.inputs["audio"][row, 0], expected, atol=5e-3)
            frames = sorted((source / "Image-01-FPS" / clips[row]).iterdir())
            np.testing.assert_array_equal(samples.inputs["video"][row], frame(frames[len(frames) // 2]))
    actors = {split: {clip[:4] for clip in names(out, split)} for split in dataset.splits}
    assert actors["train"] | actors["val"] == actors["test"] == {"1001", "1002", "1003", "1004"}
    assert not actors["train"] & actors["val"]


def test_crema_d_by_actor(releases: Releases) -> None:
    splits = open_release("crema_d", releases("crema_d"), "actor").splits
    actors = {split: {sample.name[:4] for sample in samples} for split, samples in splits.items()}
    assert {split: len(found) for split, found in actors.items()} == {"train": 2, "val": 1, "test": 1}
    assert set.union(*actors.values()) == {"1001", "1002", "1003", "1004"}
    assert sum(map(len, splits.values())) == 72


def test_crema_d_from_videos(broken: Releases, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = broken("crema_d")
    (source / "VideoFlash").mkdir()
    for clip in (source / "Image-01-FPS").iterdir():
        shutil.copy(clip / "00000.jpg", source / "VideoFlash" / f"{clip.name}.flv")
    shutil.rmtree(source / "Image-01-FPS")
    programs = tmp_path / "programs"
    programs.mkdir()
    monkeypatch.setenv("PATH", str(programs))
    with pytest.raises(DataError, match="VideoFlash: ffmpeg is needed to cut frames from videos; install it, or add"):
        open_release("crema_d", source)
    ffmpeg = programs / "ffmpeg"  # "cuts" a video into itself, and what is no image into nothing
    ffmpeg.write_text(
        "#!/bin/sh\nPATH=/usr/bin:/bin\nfor last; do :; done\n"
        'grep -q JFIF "$5" || { echo "$5: Invalid data found" >&2; exit 1; }\ncp "$5" "${last%/*}/00001.jpg"\n'
    )
    ffmpeg.chmod(0o755)
    first = open_release("crema_d", source).splits["val"][3].files[1]
    (source / first).write_bytes(b"FLV no more")
    out = tmp_path / "out"
    with pytest.raises(BadFilesError, match=f"{first}: ffmpeg cannot cut it: .*Invalid data found"):
        run("crema_d", source, out)
    assert run("crema_d", source, out, skip_bad=True).samples == {"train": 36, "val": 11, "test": 24}
    video = arrays(out, seed=0).splits["test"].inputs["video"][0]
    np.testing.assert_array_equal(video, frame(source / "VideoFlash" / f"{names(out, 'test')[0]}.flv"))


def test_kinetics_sounds(releases: Releases, run: Run, tmp_path: Path) -> None:
    source, out = releases("kinetics_sounds"), tmp_path / "out"
    run("kinetics_sounds", source, out)
    dataset = arrays(out, seed=0)
    assert dataset.class_names == ("bowling", "playing_piano", "tap_dancing")
    assert [(m.name, m.shape) for m in dataset.modalities] == [("audio", (1, 129, 626)), ("video", (3, 256, 256))]
    samples, clips = dataset.splits["test"], names(out, "test")
    assert samples.targets().tolist() == [int(clip[5]) for clip in clips] == [2, 2, 1, 1, 0, 0]
    for row, clip in enumerate(clips):
        label = dataset.class_names[samples.targets()[row]]
        sound, _ = soundfile.read(source / "test" / "audio" / label / f"{clip}.wav")
        np.testing.assert_allclose(
            samples.inputs["audio"][row, 0], spectrogram(np.tile(sound, 10), 256, 128), atol=1e-2
        )
        middle = source / "test" / "video" / label / clip / "frame_2.jpg"
        np.testing.assert_array_equal(samples.inputs["video"][row], frame(middle))


def test_kinetics_sounds_takes_the_middle_of_a_long_clip(broken: Releases, run: Run, tmp_path: Path) -> None:
    source, out = broken("kinetics_sounds"), tmp_path / "out"
    sound = np.random.default_rng(0).integers(-16_384, 16_384, 10 * 16_000) / 32_768  # exact in 16 bits
    soundfile.write(source / "test/audio/bowling/test-00_000010_000020.wav", sound, 16_000)
    run("kinetics_sounds", source, out)
    row = names(out, "test").index("test-00_000010_000020")
    audio = np.load(out / "test" / "audio.npy", mmap_mode="r")[row, 0]
    np.testing.assert_allclose(audio, spectrogram(sound[40_000:120_000], 256, 128), atol=1e-2)


def test_kinetics_sounds_with_numbered_classes(broken: Releases) -> None:
    source = broken("kinetics_sounds")
    for part in ("train", "test"):
        for number, name in ((0, "bowling"), (7, "playing_piano"), (30, "tap_dancing")):
            for kind in ("audio", "video"):
                (source / part / kind / name).rename(source / part / kind / str(number))
            text = (source / f"my_{part}.txt").read_text().replace(name.replace("_", " "), str(number))
            (source / f"my_{part}.txt").write_text(text)
    release = open_release("kinetics_sounds", source)
    assert release.class_names == tuple(map(str, range(31)))
    assert [sample.label for sample in release.splits["test"]] == [30, 30, 7, 7, 0, 0]
    assert (source / release.splits["test"][0].files[0]).exists()


def test_casia_surf(releases: Releases, run: Run, tmp_path: Path) -> None:
    source, out = releases("casia_surf"), tmp_path / "out"
    assert run("casia_surf", source, out).samples == {"train": 8, "val": 4, "test": 4}
    dataset = arrays(out, seed=0)
    assert dataset.class_names == ("spoof", "live")
    assert [(m.name, m.shape) for m in dataset.modalities] == [
        ("rgb", (3, 112, 112)),
        ("depth", (1, 112, 112)),
        ("ir", (1, 112, 112)),
    ]
    for split, samples in dataset.splits.items():
        assert samples.targets().tolist() == [number % 2 for number in range(len(samples))]
        for row, color in enumerate(names(out, split)):
            for name, file in (
                ("rgb", color),
                ("depth", color.replace("color", "depth")),
                ("ir", color.replace("color", "ir")),
            ):
                picture = Image.open(source / file).resize((112, 112), Image.Resampling.BILINEAR)
                pixels = np.asarray(picture).reshape(112, 112, -1).transpose(2, 0, 1)
                np.testing.assert_array_equal(samples.inputs[name][row], pixels)


def test_nyuv2_in_both_forms(releases: Releases, run: Run, tmp_path: Path) -> None:
    source = releases("nyuv2")
    for form in ("nyuv2", "nyuv2_png"):
        assert run("nyuv2", releases(form), tmp_path / form).samples == {"train": 5, "test": 2}
        description = yaml.safe_load((tmp_path / form / "dataset.yaml").read_text())
        assert (description["task"], description["num_classes"], description["ignore_index"]) == (
            "segmentation",
            40,
            255,
        )
        assert [entry["shape"] for entry in description["modalities"]] == [[3, 24, 32], [1, 24, 32]]
        assert (description["modalities"][1]["mean"], description["modalities"][1]["std"]) == (2841.949, 1417.259)
    classes = np.concatenate([[256], loadmat(source / "classMapping40.mat")["mapClass"][0]]).astype(np.int64) - 1
    with h5py.File(source / "nyu_depth_v2_labeled.mat") as file:
        for split, numbers in (("train", (1, 3, 4, 6, 7)), ("test", (2, 5))):
            assert names(tmp_path / "nyuv2", split) == [f"{number:04d}" for number in numbers]
            rows = [number - 1 for number in numbers]
            expected = {
                "rgb": file["images"][:].transpose(0, 1, 3, 2)[rows],
                "depth": 1000.0 * file["depths"][:].transpose(0, 2, 1)[rows][:, None],
                "label": classes[file["labels"][:].transpose(0, 2, 1)[rows]],
            }
            for name, values in expected.items():
                exact, png = (np.load(tmp_path / form / split / f"{name}.npy") for form in ("nyuv2", "nyuv2_png"))
                np.testing.assert_allclose(exact, values, rtol=1e-6)
                np.testing.assert_allclose(png, values, atol=1.0 if name == "depth" else 0.0)
            assert exact.dtype == np.int64
            assert exact.max() == 255


def swap(file: str, old: str, new: str) -> Callable[[Path], None]:
    def change(source: Path) -> None:
        text = (source / file).read_text(encoding="utf-8")
        assert old in text
        (source / file).write_text(text.replace(old, new, 1), encoding="utf-8")

    return change


def without(name: str) -> Callable[[Path], None]:
    def change(source: Path) -> None:
        shutil.rmtree(source / name) if (source / name).is_dir() else (source / name).unlink()

    return change


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("crema_d", without("AudioWAV"), "{}/AudioWAV: no such folder"),
        ("crema_d", without("Image-01-FPS"), "{}: neither Image-01-FPS (a folder of frames per clip) nor VideoFlash"),
        ("crema_d", without("test.csv"), "{}/test.csv: no such file"),
        (
            "crema_d",
            swap("test.csv", "HAP_HI,HAP", "HAP_HI,JOY"),
            "{}/test.csv, line 2: label 'JOY'; allowed are NEU, HAP",
        ),
        (
            "crema_d",
            swap("train.csv", "NEU_LO,NEU", "NEU_LO"),
            "{}/train.csv, line 1: `clip,LABEL` is needed, got '1001_",
        ),
        (
            "crema_d",
            swap("test.csv", "1001_", "actor_"),
            "{}/test.csv, line 1: clip 'actor_DFA_NEU_HI'; a name is <actor",
        ),
        ("kinetics_sounds", swap("my_test.txt", "tap dancing", "singing"), "{}/my_test.txt, line 1: label 'singing'"),
        (
            "kinetics_sounds",
            swap("my_train.txt", ",10,", ","),
            "{}/my_train.txt, line 1: `id_start_end,10,label` is needed",
        ),
        (
            "casia_surf",
            swap("val_private_list.txt", " 1\n", " 2\n"),
            "{}/val_private_list.txt, line 2: label '2'; allowed are 0 (spoof)",
        ),
        (
            "casia_surf",
            swap("train_list.txt", "ir.jpg 0", "ir.jpg"),
            "{}/train_list.txt, line 1: `color_path depth_path ir_path label`",
        ),
        ("casia_surf", lambda source: (source / "train_list.txt").write_text("\n"), "{}/train_list.txt: no samples"),
        (
            "casia_surf",
            lambda source: (source / "train_list.txt").write_bytes(b"\xff\xfe\x00"),
            "{}/train_list.txt: cannot be read",
        ),
        (
            "nyuv2",
            without("nyu_depth_v2_labeled.mat"),
            "{}: neither nyu_depth_v2_labeled.mat (the release) nor train.txt",
        ),
        ("nyuv2", without("splits.mat"), "{}/splits.mat: no such file"),
        (
            "nyuv2",
            lambda s: savemat(s / "splits.mat", {"trainNdxs": [[8]]}),
            "{}/splits.mat: trainNdxs: got 8; allowed are 1 to 7",
        ),
        ("nyuv2", lambda s: savemat(s / "splits.mat", {"x": [1]}), "{}/splits.mat: no variable trainNdxs in it"),
        ("nyuv2", lambda s: (s / "splits.mat").write_bytes(b"MATLAB"), "{}/splits.mat: not a readable MATLAB file"),
        (
            "nyuv2",
            lambda s: savemat(s / "classMapping40.mat", {"mapClass": [[41]]}),
            "mapClass: got 41; allowed are 0 to 40",
        ),
        (
            "nyuv2",
            lambda s: (s / "nyu_depth_v2_labeled.mat").write_bytes(b"HDF"),
            "labeled.mat: not the labelled NYUv2 release",
        ),
    ],
)
def test_a_release_that_cannot_be_used(
    broken: Releases, name: str, change: Callable[[Path], None], message: str
) -> None:
    source = broken(name)
    change(source)
    with pytest.raises(DataError, match=re.escape(message.format(source))) as caught:
        open_release(name, source)
    assert "\n" not in str(caught.value)


def test_the_split_by_actor_is_of_crema_d(releases: Releases) -> None:
    with pytest.raises(DataError, match="--split: crema_d has this option, nyuv2 has not"):
        open_release("nyuv2", releases("nyuv2"), "actor")


def save(file: str, pixels: np.ndarray) -> Callable[[Path], None]:
    return lambda source: Image.fromarray(pixels).save(source / file)


def far_label(source: Path) -> None:
    with h5py.File(source / "nyu_depth_v2_labeled.mat", "r+") as file:
        file["labels"][4, 0, 0] = 895


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (
            "nyuv2_png",
            without("train/rgb/0003.png"),
            "train/rgb/0003.png: no such file or directory (.*train.txt, line 2)",
        ),
        (
            "nyuv2_png",
            save("train/depth/0003.png", np.ones((24, 31), np.uint16)),
            "0003.png: 31×24 pixels; 32×24 are needed",
        ),
        (
            "nyuv2_png",
            save("train/depth/0003.png", np.ones((24, 32), np.uint8)),
            "0003.png: 16-bit grey is needed, got mode L",
        ),
        (
            "nyuv2_png",
            save("test/labels_40/0005.png", np.full((24, 32), 41, np.uint8)),
            "0005.png: label 41; allowed are 0 (void) to 40",
        ),
        (
            "nyuv2_png",
            save("test/labels_40/0005.png", np.ones((24, 32, 3), np.uint8)),
            "0005.png: 8-bit grey or indexed is needed, got mode RGB",
        ),
        ("nyuv2", far_label, "nyu_depth_v2_labeled.mat, image 0005: label 895; allowed are 0 (void) to 894"),
    ],
)
def test_a_scene_that_cannot_be_used(
    broken: Releases, run: Run, tmp_path: Path, name: str, change: Callable[[Path], None], message: str
) -> None:
    source = broken(name)
    change(source)
    with pytest.raises(BadFilesError, match=re.escape(message).replace(r"\.\*", ".*")) as caught:
        run("nyuv2", source, tmp_path / "out")
    assert len(caught.value.lines) == 2
    assert caught.value.lines[1].startswith("nyuv2: 1 of 7 samples cannot be read; ")
    assert not (tmp_path / "out" / "dataset.yaml").exists()
