"""The source files of a sample: each is read once, counted and hashed, and decoded or refused by name.

Letters: C channels, H height, W width, L audio samples.
"""

from __future__ import annotations

import hashlib
import io
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from PIL.Image import Image

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
UNKNOWN_LENGTH = 0xFFFFFFFF  # in a RIFF header that was written before its end was known


class BadFile(Exception):
    """A source file that is missing, damaged or does not fit: its name and why."""

    def __init__(self, file: str, reason: str) -> None:
        super().__init__(file, reason)
        self.file = file
        self.reason = reason


class Audio(NamedTuple):
    """Mono samples (L,) and their number per second."""

    samples: npt.NDArray[np.float64]
    rate: int


class Files:
    """Reads a sample's files below `root`; `size` and `digest` (SHA-256) are over all that was read."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.size = 0
        self.digest = hashlib.sha256()

    def read(self, name: str) -> bytes:
        """The content of a file below `root`, counted and hashed.

        Raises:
            BadFile: missing, unreadable or empty.
        """
        try:
            data = self._below(name).read_bytes()
        except OSError as error:
            raise BadFile(name, _lower(error.strerror or str(error))) from None
        if not data:
            raise BadFile(name, "an empty file")
        self.count(data)
        return data

    def _below(self, name: str) -> Path:
        """The path of a name that a release's list has.

        Raises:
            BadFile: it leads out of the release.
        """
        path = Path(name)
        if path.is_absolute() or ".." in path.parts:
            raise BadFile(name, "lies outside of the release")
        return self.root / path

    def count(self, data: bytes) -> None:
        self.size += len(data)
        self.digest.update(data)

    def middle_frame(self, folder: str) -> str:
        """The image in the middle of a folder of frames, by their numbers.

        Raises:
            BadFile: no such folder, or no image in it.
        """
        try:
            found = [path.name for path in self._below(folder).iterdir() if path.suffix.lower() in IMAGE_SUFFIXES]
        except OSError as error:
            raise BadFile(folder, _lower(error.strerror or str(error))) from None
        if not found:
            raise BadFile(folder, "no frames in this folder")
        found.sort(key=lambda name: (len(name), name))  # frame_9 comes before frame_10
        return f"{folder}/{found[len(found) // 2]}"

    def image(self, name: str) -> Image:
        """The decoded image of a file.

        Raises:
            BadFile: as for `read`, or no whole image.
        """
        return decode_image(name, self.read(name))

    def audio(self, name: str) -> Audio:
        """The decoded audio of a file.

        Raises:
            BadFile: as for `read`, or no whole audio file, or one without samples or with NaN.
        """
        return decode_audio(name, self.read(name))

    def matlab(self, name: str, variable: str) -> npt.NDArray[Any]:
        """A variable of a MATLAB 5 file, as it is stored.

        Raises:
            BadFile: as for `read`, or no whole MATLAB file, or one without this variable.
        """
        return decode_matlab(name, self.read(name), variable)


def decode_image(name: str, data: bytes) -> Image:
    from PIL import Image, UnidentifiedImageError

    try:
        image = Image.open(io.BytesIO(data))
        image.load()
    except UnidentifiedImageError:
        raise BadFile(name, "not an image, or its head is damaged") from None
    except (OSError, ValueError, SyntaxError, EOFError, struct.error, Image.DecompressionBombError) as error:
        raise BadFile(name, f"a damaged image: {error}") from None
    return image


def decode_audio(name: str, data: bytes) -> Audio:
    import soundfile

    _check_length(name, data)
    try:
        samples, rate = soundfile.read(io.BytesIO(data), always_2d=True)
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).rpartition(">: ")[2]  # before that stands the address of the buffer
        raise BadFile(name, f"not a readable audio file: {reason}") from None
    if len(samples) == 0:
        raise BadFile(name, "an audio file of zero length")
    if not np.isfinite(samples).all():
        raise BadFile(name, "NaN or infinity in the audio")
    return Audio(samples.mean(axis=1), int(rate))


def decode_matlab(name: str, data: bytes, variable: str) -> npt.NDArray[Any]:
    from scipy.io import loadmat

    try:
        found = loadmat(io.BytesIO(data), variable_names=[variable])
    except Exception as error:  # of damaged bytes scipy raises about anything, from TypeError to zlib's own
        raise BadFile(name, f"not a readable MATLAB file: {_first_line(error)}") from None
    if variable not in found:
        raise BadFile(name, f"no variable {variable} in it")
    return np.asarray(found[variable])


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _check_length(name: str, data: bytes) -> None:
    """libsndfile reads what there is of a truncated wav without a word."""
    if data[:4] != b"RIFF" or len(data) < 8:
        return
    said = struct.unpack("<I", data[4:8])[0]
    if said not in (0, UNKNOWN_LENGTH) and said + 8 > len(data) + 1:  # the last chunk's padding byte may be left out
        raise BadFile(name, f"a truncated wav: {len(data)} bytes, its header says {said + 8}")


def channels_first(image: Image) -> npt.NDArray[np.uint8]:
    """(C, H, W) of an 8-bit image; C is 1 for grey."""
    pixels: npt.NDArray[Any] = np.asarray(image, dtype=np.uint8)
    return pixels[None] if pixels.ndim == 2 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def square(image: Image, side: int) -> npt.NDArray[np.uint8]:
    """(3, side, side): the shorter edge resized to `side` (bilinear, as Pillow does it), the middle cut out."""
    from PIL.Image import Resampling

    scale = side / min(image.size)
    width, height = (max(side, round(edge * scale)) for edge in image.size)
    left, top = (width - side) // 2, (height - side) // 2
    resized = image.convert("RGB").resize((width, height), Resampling.BILINEAR)
    return channels_first(resized.crop((left, top, left + side, top + side)))


def _lower(reason: str) -> str:
    return reason[:1].lower() + reason[1:]
