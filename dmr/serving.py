"""A trained network that answers requests: a folder with its design as JSON and its weights as plain arrays, nothing in
it pickled; and rows of inputs, each with whatever modalities there are.

Letters: B rows seen with one combination, M modalities, L classes, P pixels of a label map (none in classification).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dmr.combinations import combination_name
from dmr.data.augmentation import centre
from dmr.data.dataset import Modality, MultimodalDataset
from dmr.encoders import encoder_name, find_encoder
from dmr.methods import find_method, method_name
from dmr.networks.design import Design
from dmr.networks.network import Network

DESIGN, WEIGHTS = "design.json", "weights.npz"
AT_ONCE_ROWS, AT_ONCE_VALUES = 256, 2**24


class RequestError(ValueError):
    """What is wrong with a request, in one sentence that names row and modality."""


class Answer(NamedTuple):
    """What the network says of one row.

    Attributes:
        predicted: () or (*P) the most likely class.
        probabilities: (L,) or (L, *P) of each class.
        variance: predicted, mean over features; None for a method that has none.
    """

    combination: str
    predicted: npt.NDArray[np.int64]
    probabilities: npt.NDArray[np.float32]
    variance: float | None


@dataclass(frozen=True)
class Served:
    """A network's design, and what requests have to know: `modalities` as they are sent, before any crop."""

    design: Design
    modalities: tuple[Modality, ...]
    class_names: tuple[str, ...]

    def description(self) -> dict[str, Any]:
        """As JSON has it."""
        design = self.design
        own = {name: getattr(design, name) for name in ("fusion", "size", "precision", "channels_last")}
        return own | {
            "method": {"name": method_name(design.method), **asdict(design.method)},
            "encoders": {
                name: {"name": encoder_name(encoder), **asdict(encoder), "weights": None}
                for name, encoder in design.encoders.items()
            },
            "class_names": list(self.class_names),
            "modalities": [asdict(modality) for modality in self.modalities],
            "seen": [list(modality.shape) for modality in design.modalities],
        }


def served(dataset: MultimodalDataset, design: Design) -> Served:
    """What is served of a network that was trained on a data set."""
    return Served(design, dataset.modalities, dataset.class_names)


def write_network(folder: Path, served: Served, state: Mapping[str, Tensor]) -> None:
    """Write the two files into a folder that is there."""
    (folder / DESIGN).write_text(json.dumps(served.description(), indent=1), encoding="utf-8")
    arrays: dict[str, Any] = {name: tensor.cpu().numpy() for name, tensor in state.items()}
    np.savez(folder / WEIGHTS, allow_pickle=False, **arrays)


def read_served(folder: Path) -> Served:
    """The design in a folder that `write_network` wrote.

    Raises:
        OSError, ValueError: the file is missing or damaged, or a user's own class cannot be imported.
    """
    known = json.loads((folder / DESIGN).read_text(encoding="utf-8"))
    modalities = tuple(Modality(m["name"], m["kind"], tuple(m["shape"])) for m in known["modalities"])
    seen = tuple(Modality(m.name, m.kind, tuple(shape)) for m, shape in zip(modalities, known["seen"], strict=True))
    design = Design(
        modalities=seen,
        method=find_method(known["method"].pop("name")).Settings(**known["method"]),
        encoders={name: find_encoder(own.pop("name"))(**own) for name, own in known["encoders"].items()},
        fusion=known["fusion"],
        num_classes=len(known["class_names"]),
        size=tuple(known["size"]) if known["size"] else None,
        precision=known["precision"],
        channels_last=known["channels_last"],
    )
    return Served(design, modalities, tuple(known["class_names"]))


class Server:
    """Answers requests with the network in a folder, on the CPU."""

    def __init__(self, folder: Path) -> None:
        self.served = read_served(folder)
        with np.load(folder / WEIGHTS, allow_pickle=False) as arrays:
            state = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
        self.network = Network.restored(self.served.design, state)
        self.names = [modality.name for modality in self.served.modalities]

    @torch.no_grad()
    def answer(self, rows: Sequence[Mapping[Any, Any]]) -> list[Answer]:
        """One answer per row; a row's values are arrays or nested lists of a modality's shape, None or NaN where it is
        absent.

        Raises:
            RequestError: a row has no modality, or a value that is none of these.
        """
        read = [self._read(number, row) for number, row in enumerate(rows)]
        if not read:
            raise RequestError(f"the request has no row with a modality; give at least one of {', '.join(self.names)}")
        groups: dict[tuple[str, ...], list[int]] = {}
        for number, inputs in enumerate(read):
            groups.setdefault(tuple(inputs), []).append(number)
        answers: dict[int, Answer] = {}
        for names, numbers in groups.items():
            for part in self._parts(numbers):
                answers |= zip(part, self._predict(names, [read[number] for number in part]), strict=True)
        return [answers[number] for number in range(len(read))]

    def _parts(self, numbers: list[int]) -> Iterator[list[int]]:
        largest = max(math.prod(modality.shape) for modality in self.served.modalities)
        step = max(1, min(AT_ONCE_ROWS, AT_ONCE_VALUES // largest))
        for start in range(0, len(numbers), step):
            yield numbers[start : start + step]

    def _read(self, number: int, row: Mapping[Any, Any]) -> dict[str, npt.NDArray[np.float32]]:
        """The modalities that are there, in order, as the network sees them."""
        unknown = [name for name in row if name not in self.names]
        if unknown:
            raise RequestError(f"row {number}: {unknown[0]!r} is no modality; they are {', '.join(self.names)}")
        inputs = {}
        for modality, seen in zip(self.served.modalities, self.served.design.modalities, strict=True):
            value = row.get(modality.name)
            if not _absent(value):
                array = _array(value, modality, f"row {number}, modality {modality.name}")
                inputs[modality.name] = array if seen.shape == array.shape else centre(array, *seen.shape[-2:])
        if not inputs:
            raise RequestError(f"row {number} has no modality; give at least one of {', '.join(self.names)}")
        return inputs

    def _predict(self, names: tuple[str, ...], rows: list[dict[str, npt.NDArray[np.float32]]]) -> Iterator[Answer]:
        """Answers of rows that all have the modalities `names`."""
        inputs = {
            m.name: torch.from_numpy(np.stack([row[m.name] for row in rows]))
            if m.name in names
            else torch.zeros((len(rows), *m.shape))
            for m in self.served.design.modalities
        }
        masks = torch.tensor([[name in names for name in self.names]])
        with self.served.design.autocast(torch.device("cpu")):
            found = self.network.predict(inputs, masks)
        probabilities = found.logits[0].float().softmax(-1).movedim(-1, 1).numpy()
        variances = [None] * len(rows) if found.variance is None else found.variance[0].tolist()
        combination = combination_name(self.names, names)
        for one, variance in zip(probabilities, variances, strict=True):
            yield Answer(combination, one.argmax(0), one, variance)


def _absent(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _array(value: Any, modality: Modality, where: str) -> npt.NDArray[np.float32]:
    """One input as float32 of the modality's shape.

    Raises:
        RequestError: no numbers of the modality's shape, or not finite ones.
    """
    needed = f"numbers of shape {list(modality.shape)} are needed"
    try:
        array = np.asarray(_plain(value))
    except ValueError:
        raise RequestError(f"{where}: {needed}; its lists have different lengths") from None
    if array.dtype.kind not in "fiu":
        raise RequestError(f"{where}: {needed}; got values that are no numbers")
    if array.shape != modality.shape:
        raise RequestError(f"{where}: {needed}; got shape {list(array.shape)}")
    with np.errstate(over="ignore"):
        array = array.astype(np.float32)
    if not np.isfinite(array).all():
        raise RequestError(f"{where}: NaN or infinity; leave a modality out where it is missing")
    return array


def _plain(value: Any) -> Any:
    """Parquet has arrays of arrays."""
    return [_plain(inner) for inner in value] if isinstance(value, np.ndarray) and value.dtype == object else value
