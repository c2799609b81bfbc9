"""What a data set is known by: a digest of the content of each of its arrays, wherever and whenever it was written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy.typing as npt

from dmr.data.dataset import MultimodalDataset, mapped_file
from dmr.data.scan import content_digest
from dmr.studies.file_memory import learned_once


def data_digests(dataset: MultimodalDataset) -> dict[str, str]:
    """Facts of the set (`class_names`), and a digest per split and array (`train/rgb`, `train/label`), in words or
    letters. Everything is read; a memory map once, as long as its file stays the same.
    """
    found = {
        "task": dataset.task,
        "class_names": ", ".join(dataset.class_names),
        "ignore_index": str(dataset.ignore_index),
        "modalities": ", ".join(f"{m.name} ({m.kind} {list(m.shape)})" for m in dataset.modalities),
    }
    for name, split in dataset.splits.items():
        own = {"label": split.labels, "rows": split.rows, "present": split.present}
        arrays = [(key, array) for key, array in own.items() if array is not None]
        for key, array in [*((modality, split.inputs[modality]) for modality in dataset.modality_names), *arrays]:
            found[f"{name}/{key}"] = _digest(array)
    return found


def _digest(array: npt.NDArray[Any]) -> str:
    mapped = mapped_file(array)
    if mapped is None or not mapped.path.exists():
        return content_digest(array)
    path = Path(mapped.path).resolve()
    what = f"content {path} {mapped.offset} {mapped.dtype.str} {mapped.shape} {mapped.order}"
    return str(learned_once(what, [path], lambda: content_digest(array)))
