from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dmr.combinations import all_combinations
from dmr.data.dataset import Task
from dmr.distributed.ranks import ALONE, Ranks
from dmr.methods.dropout import DropoutSettings
from dmr.methods.heads import HeadNorm
from dmr.methods.mars import MARS, FeatureRouter, MARSSettings, Routing, balance_loss, order_loss
from dmr.networks.network import Network

MakeNetwork = Callable[..., Any]
THREE = all_combinations(["m0", "m1", "m2"])
COMBINATION = torch.tensor([[0, 3, 6, 4, 2, 5, 1], [5, 4, 1, 6, 0, 2, 2]])
TASKS: list[Task] = ["classification", "segmentation"]
NORMS: list[HeadNorm] = ["none", "layer", "batch"]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# --- the loss ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("incomplete", [False, True])
def test_one_expert_is_full_plus_partial_training(
    make_network: MakeNetwork, task: Task, norm: HeadNorm, incomplete: bool
) -> None:
    """Without losses of the routers: cross-entropy by hand of a `dropout` network with the same weights."""
    none = {"balance_weight": 0.0, "router_weight": 0.0, "order_weight": 0.0}
    network, inputs, labels = make_network(MARSSettings(head_norm=norm, experts=1, **none), task)
    plain: Network = make_network(DropoutSettings(head_norm=norm), task).network
    weights = {name.replace("experts.0.", "embed."): value for name, value in network.state_dict().items()}
    plain.load_state_dict({name: value for name, value in weights.items() if "router" not in name})
    has = torch.tensor([[True, True, b % 3 != 2] for b in range(7)]) if incomplete else torch.ones((7, 3)).bool()
    mine = COMBINATION.where((network.combinations[COMBINATION] <= has).all(-1), torch.tensor(0))
    got = network.losses(inputs, labels, mine, generator(), has if incomplete else None)
    got.total.backward()
    masks = torch.cat([network.combinations[mine], has[None]])
    logits = plain.method.predict(plain.encode(inputs, has), masks).logits
    each = F.cross_entropy(logits.reshape(-1, 3), labels.expand(3, *labels.shape).reshape(-1), reduction="none")
    each = each.view(3, 7, -1).mean(-1)
    expected = each[:2].mean() + each[2].mean()
    expected.backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(got.total, expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(got.task, each[:2].detach(), rtol=0, atol=1e-6)
    assert torch.equal(got.combination, mine)
    found = {name.replace("experts.0.", "embed."): p.grad for name, p in network.named_parameters()}
    for name, parameter in plain.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, rtol=0, atol=1e-6, msg=name)


@torch.no_grad()
@pytest.mark.parametrize("task", TASKS)
def test_the_loss_is_the_formula(make_network: MakeNetwork, task: Task) -> None:
    """With 7 of 4 active experts, by loops over combinations and samples."""
    settings = MARSSettings(experts=7, active=4, balance_weight=0.3, router_weight=0.7, order_weight=0.9)
    network, inputs, labels = make_network(settings, task)
    method: MARS = network.method
    got = network.losses(inputs, labels, COMBINATION, generator())
    again: MARS = copy.deepcopy(method)
    masks = torch.cat([network.combinations[COMBINATION], torch.ones((1, 7, 3), dtype=torch.bool)])
    features = network.encode(inputs)
    z = again.fusion(features.contexts, masks)  # there is no trunk
    routed = z.flatten(2, -2).mean(2) if z.ndim > 3 else z
    drawn = torch.randn((2, 7, 7), generator=generator())
    feature_logits = again.feature_router(routed)
    kl, order, gates, load = [], [], torch.zeros(3, 7, 7), torch.zeros(2, 7, 7)
    for k, b in itertools.product(range(2), range(7)):
        r = routed[k, b] - routed[2, b]
        clean = r @ again.residual_router.gate.weight.T
        scale = torch.log(1 + torch.exp(r @ again.residual_router.noise.weight.T)) + 0.01
        noisy = clean + scale * drawn[k, b]
        p_r, p_f = noisy.softmax(0), feature_logits[k, b].softmax(0)
        kl.append(float((p_r * (p_r / p_f).log()).sum()))
        chosen = sorted(
            {*noisy.topk(4).indices.tolist(), *feature_logits[k, b].topk(4).indices.tolist()},
            key=lambda i: -abs(float(p_r[i] - p_f[i])),
        )
        steps = [math.log1p(float((scale[j] / scale[i]) ** 2)) for i, j in itertools.pairwise(chosen)]
        order.append(sum(steps) / len(steps))
        gates[k, b] = kept(noisy, 4)
        for i in range(7):  # among the largest 4 if it is larger than the 4th of the others
            others = sorted((float(noisy[j]) for j in range(7) if j != i), reverse=True)
            load[k, b, i] = NormalDist().cdf((float(clean[i]) - others[3]) / float(scale[i]))
    for b in range(7):
        gates[2, b] = kept(feature_logits[2, b], 4)
    sums = [values.sum((0, 1)).detach().double().numpy() for values in (gates[:2], load)]
    balance = sum(np.var(values) / np.mean(values) ** 2 for values in sums)
    each = torch.zeros(3, 7)
    for k, b in itertools.product(range(3), range(7)):
        mixed = sum(gates[k, b, i] * again.experts[i](z[k : k + 1, b : b + 1]) for i in range(7))
        skips = [[f[b : b + 1] for f in level] for level in features.skips]
        logits = again.head(mixed, skips, masks[k : k + 1, b : b + 1])
        each[k, b] = F.cross_entropy(logits.reshape(-1, 3), labels[b].reshape(-1))
    names = {"task": each[:2].mean(), "full": each[2].mean(), "balance": balance}
    names |= {"router": np.mean(kl), "order": np.mean(order)}
    assert min(kl) > 0
    for name, value in names.items():
        assert got.terms[name].item() == pytest.approx(float(value), rel=1e-4), name
    expected = each[:2].mean() + each[2].mean() + 0.3 * balance + 0.7 * np.mean(kl) + 0.9 * np.mean(order)
    assert got.total.item() == pytest.approx(float(expected), rel=1e-4)
    torch.testing.assert_close(got.task, each[:2].detach(), rtol=1e-4, atol=1e-5)


def kept(logits: Tensor, count: int) -> Tensor:
    """Softmax over the largest alone."""
    largest = logits.argsort(descending=True)[:count]
    return torch.zeros_like(logits).index_copy(0, largest, logits[largest].softmax(0))


def test_balance_by_hand() -> None:
    gates = torch.tensor([[[1.0, 0.0], [0.5, 0.5]], [[1.0, 0.0], [0.5, 0.5]]])  # sums 3 and 1: variance 1, mean 2
    assert balance_loss(gates, torch.ones(2, 2, 2), ALONE).item() == pytest.approx(0.25)
    assert balance_loss(gates, gates, ALONE).item() == pytest.approx(0.5)
    assert balance_loss(torch.ones(1, 3, 1), torch.ones(1, 3, 1), ALONE).item() == 0.0


def test_balance_is_of_the_sums_of_all_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of two ranks uses one expert, so that both together use them alike."""
    other = torch.tensor([[0.0, 2.0], [0.0, 2.0]])
    monkeypatch.setattr(Ranks, "sum", lambda self, values: values + other)
    mine = torch.tensor([[[1.0, 0.0], [1.0, 0.0]]])
    assert balance_loss(mine, mine, Ranks(0, 2)).item() == 0.0


def test_order_by_hand() -> None:
    """The routers disagree on the experts 2, 0 and 1, in this order; the last is among the best two of neither."""
    p_r = torch.tensor([[[0.5, 0.3, 0.1, 0.1]]])
    p_f = torch.tensor([[[0.3, 0.2, 0.45, 0.05]]])
    scale = torch.tensor([[[1.0, 3.0, 2.0, 50.0]]])
    expected = (math.log1p(1 / 4) + math.log1p(9 / 1)) / 2
    assert order_loss(scale, p_r, p_f, 2).item() == pytest.approx(expected)
    assert order_loss(scale, p_r, p_r, 1).item() == 0.0  # one expert has no neighbour


def test_the_load_is_a_probability() -> None:
    """Against drawing the noise of one expert again, the others' as it is."""
    clean, scale = torch.randn(6, generator=generator(1)), torch.rand(6, generator=generator(2)) + 0.1
    noisy = clean + scale * torch.randn(6, generator=generator(3))
    load = Routing(clean[None, None], noisy[None, None], scale[None, None]).load(2)[0, 0]
    again = torch.randn(200_000, generator=generator(4))
    for i in range(6):
        second = noisy[torch.arange(6) != i].sort(descending=True).values[1]
        assert load[i].item() == pytest.approx(float((clean[i] + scale[i] * again > second).float().mean()), abs=5e-3)
    assert (Routing(clean[None], noisy[None], scale[None]).load(6) == 1.0).all()


# --- routing ----------------------------------------------------------------------------------------------------------


def test_the_feature_router_alone_decides_at_test_and_learns_from_the_residual_router(
    make_network: MakeNetwork,
) -> None:
    network, inputs, labels = make_network(MARSSettings(experts=6, active=2, balance_weight=0.0, order_weight=0.0))
    before = network.eval().predict(inputs, network.combinations).logits
    with torch.no_grad():
        for parameter in network.method.residual_router.parameters():
            parameter.fill_(torch.nan)
    assert torch.equal(network.predict(inputs, network.combinations).logits, before)
    network, inputs, labels = make_network(MARSSettings(router_weight=1e3))
    optimizer = torch.optim.Adam(network.method.feature_router.parameters(), lr=1e-2)
    terms = []
    for _ in range(60):
        optimizer.zero_grad()
        losses = network.losses(inputs, labels, COMBINATION, generator())
        losses.total.backward()
        optimizer.step()
        terms.append(losses.terms["router"].item())
    assert terms[-1] < 0.5 * terms[0]


def test_as_many_experts_as_are_active_count(make_network: MakeNetwork) -> None:
    method: MARS = make_network(MARSSettings(experts=8, active=3)).network.method
    gates = method.gates(torch.randn(4, 5, 8))
    assert ((gates > 0).sum(-1) == 3).all()
    torch.testing.assert_close(gates.sum(-1), torch.ones(4, 5))


def test_a_rank_without_a_sample_has_routes_for_none() -> None:
    assert FeatureRouter(4, 3)(torch.zeros(2, 0, 4)).shape == (2, 0, 3)


@pytest.mark.parametrize("repeats", [1, 3])
def test_combinations_of_a_sample_are_those_one_by_one(make_network: MakeNetwork, repeats: int) -> None:
    """K rows of the task loss, each as if it were the only one, but for the noise that is drawn for it."""
    network, inputs, labels = make_network(MARSSettings(experts=2, active=2))
    network.method.feature_router.eval()  # whose batch normalisation is of all K + 1
    with torch.no_grad():
        network.method.residual_router.noise.weight.fill_(0.0)
    network.method.residual_router.forward = _without_noise(network.method.residual_router)
    rows = COMBINATION[torch.arange(repeats) % 2]
    together = network.losses(inputs, labels, rows, generator())
    alone = [network.losses(inputs, labels, row[None], generator()).task for row in rows]
    assert together.task.shape == together.combination.shape == (repeats, 7)
    torch.testing.assert_close(together.task, torch.cat(alone))


def _without_noise(router: Any) -> Callable[..., Routing]:
    forward = type(router).forward

    def clean(*given: Any) -> Routing:
        routing = forward(router, *given)
        return routing._replace(noisy=routing.clean)

    return clean
