from __future__ import annotations

import hashlib
import io
import os
import re
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import soundfile
from PIL import Image

from dmr.data.prepare.files import BadFile, Files, square


def wav(samples: np.ndarray, rate: int = 8000, subtype: str = "PCM_16") -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format="WAV", subtype=subtype)
    return file.getvalue()


def image(kind: str, shape: tuple[int, ...] = (40, 60, 3)) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, shape, np.uint8)).save(file, kind)
    return file.getvalue()


NOISE = np.random.default_rng(0).uniform(-0.5, 0.5, (800, 2))
JPEG, PNG, WAV = image("JPEG"), image("PNG"), wav(NOISE)
ENDLESS = WAV[:4] + b"\xff" * 4 + WAV[8:]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "no such file or directory"),
        (b"", "an empty file"),
        (JPEG[: len(JPEG) // 2], "a damaged image: image file is truncated"),
        (PNG[: len(PNG) // 2], "a damaged image: "),
        (PNG[:80] + bytes(40) + PNG[120:], "a damaged image: "),
        (b"<html>not found</html>", "not an image, or its head is damaged"),
    ],
    ids=["missing", "empty", "half", "half png", "overwritten", "html"],
)
def test_an_image_that_cannot_be_used(tmp_path: Path, content: bytes | None, reason: str) -> None:
    if content is not None:
        (tmp_path / "face.jpg").write_bytes(content)
    with pytest.raises(BadFile, match=re.escape(reason)) as caught:
        Files(tmp_path).image("face.jpg")
    assert caught.value.file == "face.jpg"
    assert "\n" not in caught.value.reason


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "no such file or directory"),
        (b"", "an empty file"),
        (wav(NOISE[:0]), "an audio file of zero length"),
        (WAV[: len(WAV) // 2], f"a truncated wav: {len(WAV) // 2} bytes, its header says {len(WAV)}"),
        (WAV[:20], "a truncated wav"),
        (b"RIFF", "not a readable audio file: "),
        (JPEG, "not a readable audio file: Format not recognised"),
        (wav(np.array([0.1, np.nan]), subtype="FLOAT"), "NaN or infinity in the audio"),
    ],
    ids=["missing", "empty", "no samples", "half", "header", "mark", "jpeg", "nan"],
)
def test_audio_that_cannot_be_used(tmp_path: Path, content: bytes | None, reason: str) -> None:
    if content is not None:
        (tmp_path / "clip.wav").write_bytes(content)
    with pytest.raises(BadFile, match=re.escape(reason)) as caught:
        Files(tmp_path).audio("clip.wav")
    assert caught.value.file == "clip.wav"
    assert "\n" not in caught.value.reason


@pytest.mark.parametrize("content", [WAV, ENDLESS], ids=["plain", "length unknown"])
def test_channels_of_audio_are_averaged(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "clip.wav").write_bytes(content)
    samples, rate = Files(tmp_path).audio("clip.wav")
    assert rate == 8000
    np.testing.assert_allclose(samples, NOISE.mean(axis=1), atol=1e-4)


def test_what_is_read_is_counted_and_hashed(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"one")
    (tmp_path / "b").write_bytes(b"three")
    files = Files(tmp_path)
    assert files.read("a") + files.read("b") == b"onethree"
    assert files.size == 8
    assert files.digest.hexdigest() == hashlib.sha256(b"onethree").hexdigest()


@pytest.mark.parametrize("name", ["../secret.jpg", "a/../../secret.jpg", "/etc/passwd"])
def test_a_name_in_a_list_cannot_lead_out_of_the_release(tmp_path: Path, name: str) -> None:
    (tmp_path / "secret.jpg").write_bytes(image("JPEG"))
    files = Files(tmp_path / "release")
    for read in (files.image, files.audio, files.read, files.middle_frame):
        with pytest.raises(BadFile, match="lies outside of the release"):
            read(name)
    assert files.size == 0


def test_the_middle_frame_by_number(tmp_path: Path) -> None:
    files = Files(tmp_path)
    with pytest.raises(BadFile, match="no such file or directory"):
        files.middle_frame("clip")
    (tmp_path / "clip").mkdir()
    (tmp_path / "clip" / "Thumbs.db").touch()
    with pytest.raises(BadFile, match="no frames in this folder"):
        files.middle_frame("clip")
    for number in (1, 2, 9, 10, 11):
        (tmp_path / "clip" / f"frame_{number}.jpg").touch()
    assert files.middle_frame("clip") == "clip/frame_9.jpg"


@pytest.mark.parametrize("read", [Files.read, Files.middle_frame])
def test_a_folder_that_cannot_be_read(read: Callable[[Files, str], object]) -> None:
    with TemporaryDirectory() as folder:  # not below tmp_path, which is root's alone
        os.chmod(folder, 0o755)
        (Path(folder) / "locked").mkdir(mode=0o000)
        mine = os.geteuid()
        if mine == 0:  # who reads everything
            os.seteuid(65534)
        try:
            with pytest.raises(BadFile, match="permission denied"):
                read(Files(Path(folder)), "locked/clip")
        finally:
            os.seteuid(mine)


@pytest.mark.parametrize("size", [(60, 40), (40, 60), (20, 20), (31, 301)])
def test_a_square_is_resized_by_the_shorter_edge_and_cut_out_of_the_middle(size: tuple[int, int]) -> None:
    width, height = size
    picture = Image.fromarray(np.random.default_rng(1).integers(0, 256, (height, width, 3), np.uint8))
    side = 32
    wide, high = max(side, round(width * side / min(size))), max(side, round(height * side / min(size)))
    resized = np.asarray(picture.resize((wide, high), Image.Resampling.BILINEAR))
    top, left = (high - side) // 2, (wide - side) // 2
    np.testing.assert_array_equal(
        square(picture, side), resized[top : top + side, left : left + side].transpose(2, 0, 1)
    )
    assert square(picture.convert("L"), side).shape == (3, side, side)
