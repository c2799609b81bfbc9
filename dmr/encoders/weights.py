"""Weights to begin from, out of a local file."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from dmr.files import user_path

WRAPPERS = ("state_dict", "network")
COUNTER = "num_batches_tracked"  # of batches; older files lack it and nothing here reads it


def load_weights(module: nn.Module, path: str, own: tuple[str, ...] = (), ignored: tuple[str, ...] = ()) -> None:
    """Copy a state dict into `module`.

    Args:
        path: what torch.save wrote: a state dict, or a mapping that has one under "state_dict" or "network".
        own: prefixes of names that the file may lack.
        ignored: prefixes of names in the file that are not read, unless the module has them.

    Raises:
        ValueError: the file cannot be read, or its tensors are not the module's.
    """
    given, wanted = _state_dict(path), module.state_dict()
    read = {name: value for name, value in given.items() if name in wanted or not name.startswith(ignored)}
    for name, tensor in wanted.items():
        if name not in read:
            if not name.startswith(own) and not name.endswith(COUNTER):
                raise ValueError(f"weights {path}: tensor {name} {_shape(tensor)} is missing")
        elif _shape(read[name]) != _shape(tensor):
            raise ValueError(
                f"weights {path}: tensor {name} is {_shape(read[name])}; the encoder's is {_shape(tensor)}"
            )
    for name, value in read.items():
        if name not in wanted:
            raise ValueError(f"weights {path}: tensor {name} {_shape(value)} is unexpected; the encoder has none")
    module.load_state_dict(read, strict=False)


def _state_dict(path: str) -> Mapping[str, Any]:
    try:
        content = torch.load(user_path(path), map_location="cpu", weights_only=True)
    except OSError as error:
        raise ValueError(f"weights {path}: {error.strerror or 'cannot be read'}") from None
    except (RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError):
        raise ValueError(f"weights {path}: no file of tensors that torch.load(weights_only=True) reads") from None
    for wrapper in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping) or not all(isinstance(name, str) for name in content):
        raise ValueError(f"weights {path}: no state dict, a mapping from names to tensors")
    return content


def _shape(value: Any) -> list[int] | str:
    return list(value.shape) if isinstance(value, Tensor) else type(value).__name__
