"""Users' own data sets: a function named `module:function` that returns a `MultimodalDataset`.

Letters: N samples of a split, M modalities, H height, W width.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from dmr.data.dataset import INPUT_TYPES, DataError, MultimodalDataset, Split
from dmr.data.yaml_text import text_rule
from dmr.named import import_function

SEED = "seed"


def own_function(name: str, keys: Iterable[str]) -> Callable[..., Any]:
    """The function `name`, which can be called with these keys and, where it has it, the study's seed.

    Raises:
        DataError: it cannot be imported or takes other keys; the line begins with a key of `dataset`.
    """
    try:
        function = import_function(name)
        parameters = inspect.signature(function).parameters
    except ValueError as error:
        raise DataError(f"name: {error}") from None
    given = set(keys)
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    named = [p.name for p in parameters.values() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    unknown = sorted(given - set(named))
    if unknown and not takes_any:
        raise DataError(f"{unknown[0]}: {name} has no such parameter; it has {', '.join(named) or 'none'}")
    for parameter in parameters.values():
        variable = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        if not variable and parameter.default is parameter.empty and parameter.name not in given | {SEED}:
            raise DataError(f"{parameter.name}: this key is needed, a parameter of {name}")
    return function


def takes_seed(name: str) -> bool:
    """Whether the function `name` has a parameter `seed`."""
    return SEED in inspect.signature(import_function(name)).parameters


def own_dataset(name: str, options: Mapping[str, Any], seed: int) -> MultimodalDataset:
    """What the function `name` returns for these options; a `seed` that they lack is the study's.

    Raises:
        DataError: it cannot be called, fails, or returns something that nothing can be trained on.
    """
    function = own_function(name, options)
    parameters = inspect.signature(function).parameters
    for key, value in options.items():
        wants_text = key in parameters and parameters[key].annotation in (str, "str")
        if wants_text and isinstance(value, int | float):  # a bool is an int
            raise DataError(f"dataset {name}: {key}: got {value!r}; allowed: {text_rule(value)}")
    own = {SEED: seed} if SEED in parameters else {}
    try:
        dataset = function(**(own | dict(options)))
    except Exception as error:  # a function of somebody else's raises anything
        raise DataError(f"dataset {name}: {type(error).__name__}: {' '.join(str(error).split())}") from None
    if not isinstance(dataset, MultimodalDataset):
        raise DataError(f"dataset {name}: a MultimodalDataset is needed, it returns {type(dataset).__name__}")
    for needed in ("train", "val"):
        if needed not in dataset.splits:
            raise DataError(f"dataset {name}: split {needed} is needed; it has {', '.join(dataset.splits) or 'none'}")
    for split, samples in dataset.splits.items():
        mistake = _mistake(dataset, samples)
        if mistake:
            raise DataError(f"dataset {name}: split {split}: {mistake}")
    return dataset


def _mistake(dataset: MultimodalDataset, split: Split) -> str | None:
    if tuple(split.inputs) != dataset.modality_names:
        return f"inputs are {', '.join(split.inputs)}; the modalities are {', '.join(dataset.modality_names)}"
    labels, count = split.labels, len(split.labels)
    dimensions, shape = (3, "(N, H, W)") if dataset.task == "segmentation" else (1, "(N,)")
    if labels.dtype != np.int64 or labels.ndim != dimensions:
        return f"labels: int64 of shape {shape} is needed, got {labels.dtype} {labels.shape}"
    if len(split) == 0:
        return "no samples"
    for modality in dataset.modalities:
        array = split.inputs[modality.name]
        if array.dtype.name not in INPUT_TYPES or not array.dtype.isnative:
            return f"{modality.name}: type {array.dtype}; allowed are {', '.join(INPUT_TYPES)} in native byte order"
        if array.shape != (count, *modality.shape):
            return f"{modality.name}: shape {(count, *modality.shape)} is needed, got {array.shape}"
    if split.rows is not None and not (
        split.rows.dtype == np.int64 and 0 <= split.rows.min() <= split.rows.max() < count
    ):
        got = f"{split.rows.dtype} from {split.rows.min()} to {split.rows.max()}"
        return f"rows: int64 from 0 to {count - 1} are needed, got {got}"
    if split.present is not None and (
        split.present.dtype != np.bool_ or split.present.shape != (count, len(dataset.modalities))
    ):
        needed = (count, len(dataset.modalities))
        return f"present: bool of shape {needed} is needed, got {split.present.dtype} {split.present.shape}"
    lost = np.flatnonzero(~split.has().any(axis=1))
    if len(lost):
        return f"present: sample {lost[0]} has no modality at all; leave such samples out"
    parts = split.each_target() if dataset.task == "segmentation" else [split.targets()]
    counted = False
    for first, found in enumerate(parts):
        counted = counted or bool((found != dataset.ignore_index).any())
        outside = ((found < 0) | (found >= dataset.num_classes)) & (found != dataset.ignore_index)
        if outside.any():
            row = first if dataset.task == "segmentation" else int(outside.argmax())
            ignored = "" if dataset.ignore_index is None else f" and {dataset.ignore_index}"
            allowed = f"0 to {dataset.num_classes - 1}{ignored}"
            return f"labels: sample {row}: got {found[outside][0]}; allowed are {allowed}"
    return None if counted else f"labels: every pixel is {dataset.ignore_index}, which is ignored; some need a class"
