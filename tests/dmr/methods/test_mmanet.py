from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.distributions import Categorical
from torch.distributions import kl_divergence as reference_kl

from dmr.combinations import all_combinations
from dmr.data.dataset import Task
from dmr.methods.full_only import FullOnlySettings
from dmr.methods.mmanet import MMANet, MMANetSettings, divergence, entropy, farthest, margin_aware_distillation
from dmr.seeds import derive_seed
from dmr.settings import SamplingSettings
from dmr.training import Diverged, Run, RunSettings, build_network, fit

THREE = all_combinations(["m0", "m1", "m2"])
COMBINATION = torch.tensor([[0, 3, 6, 4, 2, 5, 1], [5, 4, 1, 6, 0, 2, 2]])
TASKS: list[Task] = ["classification", "segmentation"]
MakeNetwork = Callable[..., Any]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# --- distillation -----------------------------------------------------------------------------------------------------


def test_distillation_by_hand() -> None:
    student, teacher = torch.tensor([[[2.0, 0.0], [0.0, 3.0]]]), torch.tensor([[1.0, 0.0], [5.0, 0.0]])
    # G^s = identity, G^t = ones: every row differs by 1 in one of two places. Weights 1/2 and 3/2.
    assert margin_aware_distillation(student, teacher, torch.tensor([1.0, 3.0])).item() == pytest.approx(0.5)
    # only sample 1 is near the boundary; it differs by cos 45° in one place
    student = torch.tensor([[[1.0, 0.0], [1.0, 0.0]]])
    teacher = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    got = margin_aware_distillation(student, teacher, torch.tensor([0.0, 1.0])).item()
    assert got == pytest.approx((1 - math.sqrt(0.5)) ** 2 / 2, rel=1e-5)


def test_distillation_by_loops() -> None:
    student, teacher, uncertainty = torch.randn(2, 4, 5), torch.randn(4, 5), torch.rand(4)
    total = 0.0
    for k, i, j in itertools.product(range(2), range(4), range(4)):
        difference = F.cosine_similarity(teacher[i], teacher[j], dim=0) - F.cosine_similarity(
            student[k, i], student[k, j], dim=0
        )
        total += float(uncertainty[i] / uncertainty.mean() * difference**2)
    got = margin_aware_distillation(student, teacher, uncertainty)
    assert got.item() == pytest.approx(total / (2 * 4 * 4), rel=1e-5)


def test_distillation_is_exact_under_autocast() -> None:
    student, teacher, uncertainty = torch.randn(2, 4, 5), torch.randn(4, 5), torch.rand(4)
    expected = margin_aware_distillation(student, teacher, uncertainty)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(margin_aware_distillation(student, teacher, uncertainty), expected)


def test_equal_relations_cost_nothing() -> None:
    teacher = torch.randn(4, 5)
    rotation, _ = torch.linalg.qr(torch.randn(5, 5))
    got = margin_aware_distillation((3.0 * teacher @ rotation)[None], teacher, torch.rand(4))
    assert got.item() == pytest.approx(0.0, abs=1e-10)
    assert margin_aware_distillation(torch.randn(1, 4, 5), teacher, torch.zeros(4)).item() == 0.0


@pytest.mark.parametrize("pixels", [(), (2, 3)])
def test_entropy_and_divergence_against_torch(pixels: tuple[int, ...]) -> None:
    full, other = 3 * torch.randn(1, 4, *pixels, 5), 3 * torch.randn(2, 4, *pixels, 5)
    each = Categorical(logits=full[0]).entropy()
    torch.testing.assert_close(entropy(full[0]), each.reshape(4, -1).mean(1))
    apart = reference_kl(Categorical(logits=full.expand_as(other)), Categorical(logits=other))
    torch.testing.assert_close(divergence(full, other), apart.reshape(2, 4, -1).mean(2))


def test_entropy_and_divergence_by_hand() -> None:
    assert entropy(torch.zeros(1, 4)).item() == pytest.approx(math.log(4))
    assert entropy(torch.tensor([[200.0, 0.0]])).item() == pytest.approx(0.0)
    # (1/2, 1/2) against (3/4, 1/4): ½ ln(2/3) + ½ ln 2
    got = divergence(torch.zeros(1, 1, 2), torch.log(torch.tensor([[[3.0, 1.0]]])))
    assert got.item() == pytest.approx(0.5 * math.log(4 / 3))


# --- hard combinations ------------------------------------------------------------------------------------------------


def test_the_farthest_on_average_are_hard() -> None:
    count = torch.tensor([9, 1, 5, 2, 8, 0, 50])
    mean = torch.tensor([0.6, 0.5, 0.4, 0.3, 0.2, 9.0, 7.0])
    sums = torch.stack([mean * count, count]).double()
    assert farthest(sums, THREE, 2).nonzero().flatten().tolist() == [0, 1]
    assert farthest(sums, THREE, None).nonzero().flatten().tolist() == [0, 1, 2]
    assert farthest(sums, THREE, 40).nonzero().flatten().tolist() == [0, 1, 2, 3, 4]


def start(network: Any, epoch: int) -> None:
    """As `dmr.training` does, after an evaluation."""
    network.eval()
    network.train()
    network.method.start_epoch(epoch, THREE, generator())


@pytest.mark.parametrize("task", TASKS)
def test_farness_is_summed_by_combination_until_the_warm_up_is_over(make_network: MakeNetwork, task: Task) -> None:
    network, inputs, labels = make_network(MMANetSettings(warmup_epochs=2, hard_count=2, head_norm="layer"), task)
    method = network.method
    for epoch in (0, 1):
        start(network, epoch)
        assert not method.hard.any()
    network.losses(inputs, labels, COMBINATION, generator())
    masks = network.combinations[COMBINATION]
    teacher = method.teacher.predict(inputs, torch.ones(1, 3, dtype=torch.bool)).logits
    far = divergence(teacher, method.predict(network.encode(inputs, masks.any(0)), masks).logits)
    expected = torch.zeros(2, 7, dtype=torch.float64)
    for k, b in itertools.product(range(2), range(7)):
        expected[0, COMBINATION[k, b]] += far[k, b].item()
        expected[1, COMBINATION[k, b]] += 1
    torch.testing.assert_close(method.farness, expected, rtol=1e-4, atol=1e-6)
    start(network, 2)
    assert torch.equal(method.hard_combinations(), farthest(expected, THREE, 2))
    assert method.hard.sum() == 2


def test_the_warm_up_lasts_until_something_is_hard() -> None:
    assert MMANet.warmup_of(MMANetSettings(warmup_epochs=4)) == 4


# --- the method as a whole --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", TASKS)
def test_the_loss_with_a_teacher_is_the_formula(make_network: MakeNetwork, task: Task) -> None:
    settings = MMANetSettings(distillation_weight=0.7, hard_weight=0.4, head_norm="layer")
    network, inputs, labels = make_network(settings, task)
    method = network.method
    start(network, 0)
    method.hard[[1, 4]] = True
    got = network.losses(inputs, labels, COMBINATION, generator())
    masks = network.combinations[COMBINATION]
    found = method.predict(network.encode(inputs, masks.any(0)), masks)
    taught = method.teacher.predict(inputs, torch.ones(1, 3, dtype=torch.bool))
    each = torch.zeros(2, 7)
    for k, b in itertools.product(range(2), range(7)):
        each[k, b] = F.cross_entropy(found.logits[k, b].reshape(-1, 3), labels[b].reshape(-1))
    hard = sum(each[k, b].item() for k, b in itertools.product(range(2), range(7)) if COMBINATION[k, b] in (1, 4)) / 14
    distillation = margin_aware_distillation(found.embedding, taught.embedding[0], entropy(taught.logits[0])).item()
    assert found.embedding.shape == (2, 7, method.embed.linear.out_features)
    assert hard > 0
    assert distillation > 0
    torch.testing.assert_close(got.task, each.detach(), rtol=1e-4, atol=1e-5)
    assert got.terms["hard"].item() == pytest.approx(hard, rel=1e-4)
    assert got.terms["distillation"].item() == pytest.approx(distillation, rel=1e-4)
    assert got.total.item() == pytest.approx(each.mean().item() + 0.4 * hard + 0.7 * distillation, rel=1e-4)


@pytest.mark.parametrize("task", TASKS)
def test_only_the_teacher_sees_what_is_absent(make_network: MakeNetwork, task: Task) -> None:
    results = []
    for spoil in (0.0, 9.0):
        network, inputs, labels = make_network(MMANetSettings(), task)
        start(network, 0)
        network.method.hard[[0, 1]] = True
        inputs["m2"][0] += spoil
        results.append(network.losses(inputs, labels, COMBINATION[:1] * 0, generator()))
    assert torch.equal(results[0].task, results[1].task)
    assert torch.equal(results[0].terms["hard"], results[1].terms["hard"])
    assert not torch.equal(results[0].terms["distillation"], results[1].terms["distillation"])


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW])
def test_the_teacher_stays_as_it_is(make_network: MakeNetwork, optimizer: Any) -> None:
    network, inputs, labels = make_network(MMANetSettings(head_norm="batch"))
    optimise = optimizer(network.parameters(), lr=0.01, weight_decay=0.1)
    before = copy.deepcopy(network.state_dict())
    for epoch in range(2):
        start(network, epoch)
        optimise.zero_grad(set_to_none=True)
        network.losses(inputs, labels, COMBINATION, generator()).total.backward()
        optimise.step()
    moved = {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}
    assert {"method.embed.norm.running_mean", "method.embed.linear.weight"} <= moved
    assert not any(name.startswith("method.teacher.") for name in moved)


def test_a_prediction_of_the_teacher_counts_as_encoder_passes(make_network: MakeNetwork) -> None:
    network, inputs, labels = make_network(MMANetSettings())
    start(network, 0)
    network.losses(inputs, labels, COMBINATION, generator())
    assert network.method.teacher.encoded == 3 * 7


def test_the_teacher_is_not_asked_in_evaluation(make_network: MakeNetwork) -> None:
    network, inputs, _ = make_network(MMANetSettings())
    network.eval()
    before = network.predict(inputs, network.combinations).logits
    with torch.no_grad():
        for parameter in network.method.teacher.parameters():
            parameter.fill_(torch.nan)
    assert torch.equal(network.predict(inputs, network.combinations).logits, before)


# --- the teacher's own training ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("given", "epochs"), [(None, 3), (5, 5)])
def test_the_teacher_is_trained_to_its_end_first(
    make_dataset: Callable[..., Any],
    make_settings: Callable[..., RunSettings],
    memory_reporter: Any,
    assert_identical: Callable[..., None],
    given: int | None,
    epochs: int,
) -> None:
    """As a `full_only` run of its own epochs and schedule from the same weights, and fixed from then on; a run that
    goes on trains it no more.
    """
    dataset, reporter = make_dataset(3), memory_reporter()
    own = {"dropout": 0.2, "schedule": "cosine", "learning_rate": 0.03}
    settings = make_settings(dataset, MMANetSettings(teacher_epochs=given, warmup_epochs=1), epochs=3, **own)
    with torch.random.fork_rng([]):
        torch.manual_seed(derive_seed(0, "initialisation"))
        build_network(dataset, settings)  # the student, whose weights are drawn first
        alone = make_settings(dataset, FullOnlySettings(), SamplingSettings(), epochs=epochs, **own)
        run = Run(dataset, replace(alone, sampling=SamplingSettings(combinations_per_sample=1)), torch.device("cpu"))
        passes = sum(run.train_epoch(epoch)["train/encoder_passes"] for epoch in range(epochs))
    fit(dataset, settings, torch.device("cpu"), reporter)
    for state in reporter.states:
        found = {name: value for name, value in state["network"].items() if name.startswith("method.teacher.")}
        assert_identical(found, {f"method.teacher.{name}": value for name, value in run.network.state_dict().items()})
    first, second = (report.metrics["train/encoder_passes"] for report in reporter.reports[:2])
    assert passes == epochs * 18 * 3
    assert 2 * 18 * 3 < first - passes + 18 * 3 <= 3 * 18 * 3
    assert second <= 2 * 18 * 3
    again = memory_reporter(start=reporter.states[1])
    fit(dataset, settings, torch.device("cpu"), again)
    assert_identical(again.states[-1], reporter.states[-1])


def test_a_teacher_that_diverges_is_said_to_be_it(
    make_dataset: Callable[..., Any], make_settings: Callable[..., RunSettings], memory_reporter: Any
) -> None:
    dataset = make_dataset()
    settings = make_settings(dataset, MMANetSettings(), learning_rate=1e30, optimizer="sgd")
    with pytest.raises(Diverged, match=r"^the teacher, epoch \d: "):
        fit(dataset, settings, torch.device("cpu"), memory_reporter())
