"""The file of `dmr evaluate --predictions`: what a network says of every sample in every combination.

Letters: C combinations, N samples, B samples of a batch, L classes, H, W size of the label maps.
"""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from torch import Tensor

from dmr.combinations import Combinations
from dmr.data.dataset import MultimodalDataset, Split
from dmr.files import whole_file
from dmr.methods.base import Prediction
from dmr.studies.errors import StudyError

ENDINGS = (".csv", ".parquet", ".npz")


class Predictions(Protocol):
    """An observer of an evaluation that can write what it saw."""

    def __call__(self, positions: Tensor, found: Prediction, available: Tensor) -> None: ...

    def write(self) -> None:
        """Write the file, whole or not at all."""


def predictions_to(file: Path, dataset: MultimodalDataset, split: str, combinations: Combinations) -> Predictions:
    """What gathers predictions for a file.

    Raises:
        StudyError: the file's kind cannot hold these predictions, or its directory is missing.
    """
    if file.suffix.lower() not in ENDINGS:
        raise StudyError(f"--predictions {file}: allowed endings are {', '.join(ENDINGS)}")
    if not file.parent.is_dir():
        raise StudyError(f"--predictions {file}: there is no directory {file.parent}")
    if file.is_dir():
        raise StudyError(f"--predictions {file}: is a directory; a file is needed")
    if dataset.task == "classification":
        return ClassPredictions(file, dataset, dataset.splits[split], combinations)
    if file.suffix.lower() != ".npz":
        raise StudyError(f"--predictions {file}: predictions of segmentation are maps; allowed is .npz")
    return MapPredictions(file, dataset, dataset.splits[split], combinations)


class ClassPredictions:
    """Probabilities (C, N, L), kept in memory as the metrics keep the logits."""

    def __init__(self, file: Path, dataset: MultimodalDataset, split: Split, combinations: Combinations) -> None:
        self.file, self.names, self.combinations = file, dataset.class_names, combinations.names
        shape = (len(combinations), len(split))
        self.samples, self.labels = _rows(split), split.targets()
        self.probabilities = np.full((*shape, len(self.names)), np.nan, dtype=np.float32)
        self.predicted = np.full(shape, -1, dtype=np.int64)
        self.variance = np.full(shape, np.nan, dtype=np.float32)

    def __call__(self, positions: Tensor, found: Prediction, available: Tensor) -> None:
        at, kept = positions.numpy(), available.cpu().numpy()
        probabilities = found.logits.float().softmax(-1).cpu().numpy()
        self.probabilities[:, at] = np.where(kept[..., None], probabilities, np.nan)
        self.predicted[:, at] = np.where(kept, found.logits.argmax(-1).cpu().numpy(), -1)
        if found.variance is not None:
            self.variance[:, at] = np.where(kept, found.variance.float().cpu().numpy(), np.nan)

    def write(self) -> None:
        ending = self.file.suffix.lower()
        with whole_file(self.file) as partial:
            if ending == ".npz":
                _save_arrays(
                    partial,
                    sample=self.samples,
                    label=self.labels,
                    combinations=np.array(self.combinations),
                    class_names=np.array(self.names),
                    predicted_class=self.predicted,
                    probabilities=self.probabilities,
                    variance=self.variance,
                )
            elif ending == ".csv":
                for number, frame in enumerate(self._frames()):
                    frame.to_csv(partial, index=False, header=number == 0, mode="w" if number == 0 else "a")
            else:
                self._write_parquet(partial)

    def _frames(self) -> Iterator[Any]:
        """A row per sample that has all of the combination."""
        import pandas as pd

        for c, name in enumerate(self.combinations):
            kept = self.predicted[c] >= 0
            front = {
                "sample": self.samples[kept],
                "label": self.labels[kept],
                "combination": name,
                "predicted_class": self.predicted[c, kept],
            }
            chances = {f"probability_{own}": self.probabilities[c, kept, n] for n, own in enumerate(self.names)}
            yield pd.DataFrame(front | chances | {"variance": self.variance[c, kept]})

    def _write_parquet(self, file: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        frames = self._frames()
        first = pa.Table.from_pandas(next(frames), preserve_index=False)
        with pq.ParquetWriter(file, first.schema) as writer:
            writer.write_table(first)
            for frame in frames:
                writer.write_table(pa.Table.from_pandas(frame, schema=first.schema, preserve_index=False))


class MapPredictions:
    """Maps of the predicted class (C, N, H, W), kept in a file beside the one that is wanted; never in memory."""

    def __init__(self, file: Path, dataset: MultimodalDataset, split: Split, combinations: Combinations) -> None:
        self.file, self.combinations, self.class_names = file, combinations.names, dataset.class_names
        self.samples = _rows(split)
        self.nothing = 255 if dataset.num_classes < 255 else 65_535
        shape = (len(combinations), len(split), *split.labels.shape[1:])
        self.folder = tempfile.TemporaryDirectory(dir=file.parent, prefix="dmr-maps-")  # goes with this object
        self.maps_file = Path(self.folder.name) / "predicted_class.npy"
        dtype = np.uint8 if self.nothing == 255 else np.uint16
        self.maps = np.lib.format.open_memmap(self.maps_file, "w+", dtype, shape)
        self.variance = np.full(shape[:2], np.nan, dtype=np.float32)

    def __call__(self, positions: Tensor, found: Prediction, available: Tensor) -> None:
        at, kept = positions.numpy(), available.cpu().numpy()
        predicted = found.logits.argmax(-1).cpu().numpy()
        self.maps[:, at] = np.where(kept[..., None, None], predicted, self.nothing)
        if found.variance is not None:
            self.variance[:, at] = np.where(kept, found.variance.float().cpu().numpy(), np.nan)

    def write(self) -> None:
        self.maps.flush()
        with whole_file(self.file) as partial:
            _save_arrays(
                partial,
                sample=self.samples,
                combinations=np.array(self.combinations),
                class_names=np.array(self.class_names),
                variance=self.variance,
            )
            with zipfile.ZipFile(partial, "a", zipfile.ZIP_DEFLATED, allowZip64=True) as archive:
                archive.write(self.maps_file, self.maps_file.name)
        self.folder.cleanup()


def _save_arrays(file: Path, **arrays: Any) -> None:
    """Write an .npz file; by its name alone numpy would add an ending to `.NPZ`."""
    with open(file, "wb") as opened:
        np.savez_compressed(opened, **arrays)


def _rows(split: Split) -> npt.NDArray[np.int64]:
    """(N,) the row of each sample in the split's arrays."""
    return np.arange(len(split)) if split.rows is None else split.rows
