"""A step never asks the device for a value: on a GPU that would wait until all work before it is done.

Tried on the CPU: the weights, the batch and whatever `to_device` has copied, and all that is computed from them, would
be on the device; how the samples are seen is decided on the CPU.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dmr.combinations import all_combinations
from dmr.data.dataset import Task
from dmr.distributed.ranks import ALONE
from dmr.methods import METHODS, MethodSettings
from dmr.methods.base import add_by_combination
from dmr.runs.optimisation import Optimisation
from dmr.settings import TrainSettings

WAIT = {"_local_scalar_dense", "is_nonzero", "equal", "nonzero", "masked_select", "bincount", "repeat_interleave"}
WAIT |= {"_unique", "_unique2", "unique_dim", "unique_consecutive"}
INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_"}
COMBINATION = torch.tensor([[0, 1, 2, 3, 4, 5, 6], [0, 6, 6, 5, 0, 1, 6]])
HAS = torch.ones((7, 3), dtype=torch.bool)
HAS[0, 1:] = False


class OnDevice(TorchDispatchMode):
    """Raises where a value on the device is needed on the CPU."""

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        super().__init__()
        self.tensors: list[Tensor] = []  # kept, so that no other storage takes the place of theirs
        self.storages: set[int] = set()
        self.mark(tensors)

    def mark(self, found: Any) -> None:
        for tensor in tree_leaves(found):
            if isinstance(tensor, Tensor):
                self.tensors.append(tensor)
                self.storages.add(tensor.untyped_storage()._cdata)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = [x for x in tree_leaves((args, kwargs or {})) if isinstance(x, Tensor)]
        if not any(x.untyped_storage()._cdata in self.storages for x in given):
            return func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        waits = name in WAIT or (name in INDEXING and any(x is not None and x.dtype == torch.bool for x in args[1]))
        assert not waits, f"{func} waits for the device"
        found = func(*args, **(kwargs or {}))
        self.mark(found)
        return found


@pytest.mark.parametrize(
    "ask",
    [
        lambda x: x.sum().item(),
        lambda x: bool(x.any()),
        lambda x: x.nonzero(),
        lambda x: x[x > 0],
        lambda x: x.unique(),
        lambda x: x[x.argmax()],
    ],
)
def test_what_waits_is_found(ask: Callable[[Tensor], Any]) -> None:
    x = torch.arange(3.0)
    ask(x)
    with OnDevice([x]), pytest.raises(AssertionError, match="waits for the device"):
        ask(x * 2)


@pytest.mark.parametrize("has", [None, HAS], ids=["complete", "incomplete"])
@pytest.mark.parametrize("task", ["classification", "segmentation"])
@pytest.mark.parametrize("method", METHODS)
def test_no_step_waits(
    method: str,
    task: Task,
    has: Tensor | None,
    make_network: Callable[..., Any],
    early: Callable[..., MethodSettings],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    network, inputs, labels = make_network(early(METHODS[method]), task)
    combinations = all_combinations(["m0", "m1", "m2"])
    optimisation = Optimisation(network, TrainSettings(clip_norm=1.0), ALONE)
    sums = torch.zeros((3, 7), dtype=torch.float64)
    own = [*network.parameters(), *network.buffers(), *optimisation.state.values()]
    mode = OnDevice([*own, *inputs.values(), labels, sums])

    def copied(values: Tensor, device: torch.device) -> Tensor:
        found = values.clone()
        mode.mark(found)
        return found

    for module in [name for name in sys.modules if name.startswith("dmr.")]:
        if hasattr(sys.modules[module], "to_device"):
            monkeypatch.setattr(sys.modules[module], "to_device", copied)
    for epoch in range(4):  # every phase of a method comes within these
        network.method.start_epoch(epoch, combinations, torch.Generator().manual_seed(0))
        with mode:
            losses = network.losses(inputs, labels, COMBINATION, torch.Generator().manual_seed(1), has)
            unusable = optimisation.step(losses.total)
            add_by_combination(sums, losses)
        assert unusable.item() == 0.0
        network.method.end_epoch(epoch, sums)
