"""The input of a modality that is not there changes nothing, whatever it holds; and evaluation has no randomness."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from dmr.combinations import all_combinations
from dmr.data.dataset import Task
from dmr.fusion import FUSIONS, FusionKind
from dmr.methods import METHODS

TASKS: list[Task] = ["classification", "segmentation"]
CASES: list[tuple[str, str]] = [
    *((name, "concat") for name in METHODS),
    *((name, fusion) for name in ("dmrnet", "mmanet", "dedicated") for fusion in FUSIONS if fusion != "concat"),
]
COMPLETE = {"mmanet": {"distillation"}, "auxiliary_heads": {"auxiliary"}}
"""Methods that look beyond the drawn combination in training, and the terms that do."""
EVERY_TERM = {"mars"}  # by the residual
OWN_MODELS = {"dedicated", "unimodal_ensemble"}
COMBINATION = torch.tensor([[0, 3, 6, 1, 2, 0, 4], [1, 1, 5, 1, 5, 0, 2]])
THREE = all_combinations(["m0", "m1", "m2"])
BAD = [torch.nan, 1e30]

pytestmark = [pytest.mark.parametrize("task", TASKS), pytest.mark.parametrize(("name", "fusion"), CASES)]


def small(make_network: Callable[..., Any], name: str, fusion: FusionKind, task: Task) -> Any:
    """A network past its warm-up, where it has one, with hard combinations."""
    made = make_network(METHODS[name].Settings(), task, fusion=fusion)
    for buffer_name, buffer in made.network.method.named_buffers():
        if buffer_name == "hard":
            buffer[[0, 1]] = True
    return made


def spoiled(inputs: dict[str, Tensor], absent: Tensor, bad: float) -> dict[str, Tensor]:
    """`bad` in place of the inputs where `absent` (B, M)."""
    out = {name: x.clone() for name, x in inputs.items()}
    for m, x in enumerate(out.values()):
        x[absent[:, m]] = bad
    return out


@pytest.mark.parametrize("bad", BAD)
def test_a_training_step(
    make_network: Callable[..., Any], name: str, fusion: FusionKind, task: Task, bad: float
) -> None:
    results = []
    for value in (None, bad):
        network, inputs, labels = small(make_network, name, fusion, task)
        absent = ~network.combinations[COMBINATION].any(0)
        assert absent.any(0).all()
        given = inputs if value is None else spoiled(inputs, absent, value)
        losses = network.losses(given, labels, COMBINATION, torch.Generator().manual_seed(0))
        losses.total.backward()
        results.append((losses, [p.grad for p in network.parameters()], network.combinations, absent))
    (before, gradients, combinations, absent), (after, others, _, _) = results
    if name in OWN_MODELS:  # each model sees all samples; what it lacks must not reach it
        for row, other, own in zip(before.task, after.task, before.combination, strict=True):
            untouched = not (absent & combinations[own[0]]).any()
            assert torch.equal(row, other) == untouched
        return
    if name in EVERY_TERM:
        assert before.task.isfinite().all()
        assert not torch.equal(before.task, after.task)
        return
    assert torch.equal(before.task, after.task)
    for part in before.terms.keys() - COMPLETE.get(name, set()):
        assert torch.equal(before.terms[part], after.terms[part]), part
    if before.variance is not None:
        assert torch.equal(before.variance, after.variance)
    if name not in COMPLETE:
        assert torch.equal(before.total, after.total)
        for one, other in zip(gradients, others, strict=True):
            assert one is None or torch.equal(one, other)


@torch.no_grad()
@pytest.mark.parametrize("bad", BAD)
def test_a_prediction(make_network: Callable[..., Any], name: str, fusion: FusionKind, task: Task, bad: float) -> None:
    network, inputs, _ = small(make_network, name, fusion, task)
    network.eval()
    masks = network.combinations
    before = network.predict(inputs, masks)
    for m in range(3):
        column = torch.zeros(7, 3, dtype=torch.bool)
        column[:, m] = True
        after = network.predict(spoiled(inputs, column, bad), masks)
        absent = ~masks[:, m]
        for one, other in zip(before, after, strict=True):
            assert (one is None) == (other is None)
            if one is not None:
                assert torch.equal(one[absent], other[absent])
                assert one[absent].isfinite().all()
        for c in (~absent).nonzero().flatten():
            assert not torch.equal(before.logits[c], after.logits[c])


@torch.no_grad()
def test_evaluation_has_no_randomness(
    make_network: Callable[..., Any],
    under_two_global_seeds: Callable[[Callable[[], Any]], tuple[Any, Any]],
    name: str,
    fusion: FusionKind,
    task: Task,
) -> None:
    network, inputs, _ = small(make_network, name, fusion, task)
    network.eval()
    one, other = under_two_global_seeds(lambda: network.predict(inputs, network.combinations))
    for left, right in zip(one, other, strict=True):
        assert left is None or torch.equal(left, right)
    half = network.predict({key: x[:3] for key, x in inputs.items()}, network.combinations[[5, 2]])
    torch.testing.assert_close(half.logits, one.logits[[5, 2], :3], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("late", [False, True])
def test_what_a_sample_never_had(
    make_network: Callable[..., Any], name: str, fusion: FusionKind, task: Task, late: bool
) -> None:
    """Also where a method looks beyond the drawn combination: a teacher and models of their own see what there is."""
    results = []
    for value in (None, torch.nan):
        network, inputs, labels = small(make_network, name, fusion, task)
        network.method.start_epoch(20 if late else 0, THREE, torch.Generator().manual_seed(0))
        has = network.combinations[COMBINATION].any(0)
        given = inputs if value is None else spoiled(inputs, ~has, value)
        losses = network.losses(given, labels, COMBINATION, torch.Generator().manual_seed(0), has)
        losses.total.backward()
        results.append((losses, [p.grad for p in network.parameters()]))
    (before, gradients), (after, others) = results
    assert torch.equal(before.total, after.total)
    assert torch.equal(before.task, after.task)
    assert before.terms.keys() == after.terms.keys()
    assert all(torch.equal(before.terms[part], after.terms[part]) for part in before.terms)
    assert all(one is None or torch.equal(one, other) for one, other in zip(gradients, others, strict=True))
    if name == "dedicated":
        met = network.combinations[before.combination[0]]
        assert len(met) == sum(int((has | ~mask).all(1).sum()) for mask in network.combinations)
