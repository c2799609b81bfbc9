"""What a prepared folder says about itself: manifest.json (what went in) and dataset.yaml (what it is)."""

from __future__ import annotations

import csv
import hashlib
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from dmr.data.prepare.release import Release
from dmr.data.prepare.split import SAMPLES, SKIPPED

LIBRARIES = ("dmr-studies", "numpy", "scipy", "pillow", "soundfile", "h5py")


def make_manifest(release: Release, out: Path, identity: str) -> dict[str, Any]:
    """Counts, sizes, hashes, parameters and versions of a folder whose splits are whole."""
    splits = {}
    for split, listed in release.splits.items():
        arrays = {name: np.load(out / split / f"{name}.npy", mmap_mode="r") for name in release.layout()}
        splits[split] = {
            "listed": len(listed),
            "samples": len(arrays["label"]),
            "source_bytes": sum(int(row["bytes"]) for row in _rows(out / split / SAMPLES)),
            "samples_csv_sha256": _sha256(out / split / SAMPLES),
            "skipped": _rows(out / split / SKIPPED) if (out / split / SKIPPED).exists() else [],
            "arrays": {
                name: {"type": str(array.dtype), "shape": list(array.shape), "bytes": array.nbytes}
                for name, array in arrays.items()
            },
        }
    files = {name: release.source / name for name in release.hashed}
    return {
        "set": release.name,
        "identity": identity,
        "source": str(release.source.absolute()),
        "parameters": {"split": release.about["split"]}
        | {stored.modality.name: {"type": stored.dtype, **stored.about} for stored in release.stored},
        "versions": {"python": platform.python_version(), **{name: metadata.version(name) for name in LIBRARIES}},
        "files": {name: {"bytes": file.stat().st_size, "sha256": _sha256(file)} for name, file in files.items()},
        "splits": splits,
    }


def describe(release: Release, manifest: dict[str, Any]) -> str:
    """The text of dataset.yaml."""
    import yaml

    content: dict[str, Any] = {
        "name": release.name,
        "task": release.task,
        "num_classes": len(release.class_names),
        "class_names": list(release.class_names),
    }
    if release.ignore_index is not None:
        content["ignore_index"] = release.ignore_index
    content["modalities"] = [
        {"name": s.modality.name, "kind": s.modality.kind, "shape": list(s.modality.shape), **s.about}
        for s in release.stored
    ]
    content["splits"] = {split: entry["samples"] for split, entry in manifest["splits"].items()}
    return yaml.safe_dump(content | dict(release.about), sort_keys=False, allow_unicode=True)


def _rows(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
