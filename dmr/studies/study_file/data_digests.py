"""What a data set is known by: a digest of the content of each of its arrays, wherever and whenever it was written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy.typing as npt

from dmr.data.dataset import MultimodalDataset, mapped_file
from dmr.data.scan import content_digest
from dmr.studies.file_memory import learned_once


def dataset_facts(dataset: MultimodalDataset) -> dict[str, str]:
    """What all splits of the set share, in words."""
    return {
        "task": dataset.task,
        "class_names": ", ".join(dataset.class_names),
        "ignore_index": str(dataset.ignore_index),
        "modalities": ", ".join(f"{m.name} ({m.kind} {list(m.shape)})" for m in dataset.modalities),
    }


def split_digests(dataset: MultimodalDataset, name: str) -> dict[str, str]:
    """A digest per array of a split: `train/rgb`, `train/label`. All of it is read; a memory map once, as long as its
    file stays the same.
    """
    split = dataset.splits[name]
    own = {"label": split.labels, "rows": split.rows, "present": split.present}
    arrays = [(key, array) for key, array in own.items() if array is not None]
    arrays += [(modality, split.inputs[modality]) for modality in dataset.modality_names]
    return {f"{name}/{key}": _digest(array) for key, array in arrays}


def _digest(array: npt.NDArray[Any]) -> str:
    mapped = mapped_file(array)
    if mapped is None or not mapped.path.exists():
        return content_digest(array)
    path = Path(mapped.path).resolve()
    what = f"content {path} {mapped.offset} {mapped.dtype.str} {mapped.shape} {mapped.order}"
    return str(learned_once(what, [path], lambda: content_digest(array)))
