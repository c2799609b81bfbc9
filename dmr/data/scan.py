"""Reading all of a large array, a block at a time: what is not finite, what is constant, what is the same elsewhere,
and what all of it is known by.

Letters: N samples, B samples of a block.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

SCANNED_BYTES = 64 * 2**20
DIGEST_BYTES = 16


class Scan(NamedTuple):
    """What reading all of an input says of the samples that have it.

    Attributes:
        not_finite: rows with NaN or infinity.
        constant: how many of the numbers of a sample are the same in all; 0 where there is no sample.
    """

    not_finite: npt.NDArray[np.int64]
    constant: int


def scan_values(
    array: npt.NDArray[Any],
    present: npt.NDArray[np.bool_] | None = None,
    digests: npt.NDArray[np.uint8] | None = None,
) -> Scan:
    """Read (N, *shape) once, in blocks.

    Args:
        present: (N,) which samples have it, None for all; what the others hold is not looked at.
        digests: (N, `DIGEST_BYTES`) of what was read of each sample before; the new ones are put in their place.
    """
    first: npt.NDArray[Any] | None = None
    same = np.zeros(array.shape[1:], dtype=bool)
    not_finite = [np.empty(0, dtype=np.int64)]
    for start, block in blocks(array):
        rows = np.arange(start, start + len(block))
        if present is not None:
            rows = rows[present[rows]]
            block = block[rows - start]
        if len(rows) == 0:
            continue
        if first is None:
            first, same = block[0].copy(), np.ones_like(same)
        if same.any():
            same &= (block == first).all(axis=0)
        if block.dtype.kind == "f":
            not_finite.append(rows[~np.isfinite(block).reshape(len(block), -1).all(axis=1)])
        if digests is not None:
            digest(digests, rows, block)
    return Scan(np.concatenate(not_finite), int(same.sum()))


def content_digest(array: npt.NDArray[Any]) -> str:
    """What the type, the shape and every value of an array are known by, in letters."""
    made = hashlib.sha256(repr((array.dtype.str, array.shape)).encode())  # most CPUs have instructions for it
    for _, block in blocks(array):
        made.update(np.ascontiguousarray(block).reshape(-1).view(np.uint8).data)
    return made.hexdigest()[: 2 * DIGEST_BYTES]


def digest(digests: npt.NDArray[np.uint8], rows: npt.NDArray[np.int64], block: npt.NDArray[Any]) -> None:
    """Digest each sample of a block (B, *shape) with what is known of its row (B,), in place."""
    contents = np.ascontiguousarray(block).reshape(len(block), -1).view(np.uint8)
    for row, content in zip(rows, contents, strict=True):
        made = hashlib.blake2b(digests[row], digest_size=DIGEST_BYTES)
        made.update(content.data)
        digests[row] = np.frombuffer(made.digest(), dtype=np.uint8)


def blocks(array: npt.NDArray[Any]) -> Iterator[tuple[int, npt.NDArray[Any]]]:
    """Parts (B, *shape) of an array, at most `SCANNED_BYTES` or a single sample large, each with its first row."""
    rows = max(1, SCANNED_BYTES * len(array) // max(1, array.nbytes))
    for start in range(0, len(array), rows):
        yield start, np.asarray(array[start : start + rows])
