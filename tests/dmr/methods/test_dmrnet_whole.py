"""DMRNet as a whole: its losses on features and in networks. Its formulas one by one: `test_dmrnet.py`."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Normal
from torch.distributions import kl_divergence as reference_kl

from dmr.data.dataset import Task
from dmr.methods.base import Components, MaskedBatch
from dmr.methods.dmrnet import LOG_VARIANCE_LIMIT, DMRNet, DMRNetSettings

MakeParts = Callable[..., Components]
MakeSeen = Callable[..., MaskedBatch]
COMBINATION = torch.tensor([[0, 1, 6, 4, 5], [3, 1, 2, 4, 6]])


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def fused_by_loops(seen: MaskedBatch) -> Tensor:
    """(K, B, *S, Z) of a fusion by concatenation."""
    rows = [
        torch.cat([x[b] if mask[b, m] else torch.zeros_like(x[b]) for m, x in enumerate(seen.features.contexts)], -1)
        for mask in seen.masks
        for b in range(mask.shape[0])
    ]
    return torch.stack(rows).unflatten(0, seen.combination.shape)


@pytest.mark.parametrize("mode", ["intended", "released", "constant"])
@pytest.mark.parametrize("draws", [1, 3])
def test_the_loss_is_the_formula(make_parts: MakeParts, make_seen: MakeSeen, mode: Any, draws: int) -> None:
    settings = DMRNetSettings(
        prior_std=0.7, noise_scale=1.3, draws=draws, kl_weight=0.05, hard_weight=0.4, hard_mode=mode, head_norm="layer"
    )
    method = DMRNet(settings, make_parts())
    method.hard[[1, 4]] = True
    seen = make_seen(COMBINATION)
    got = method.losses(seen, generator(3))
    fused = fused_by_loops(seen)
    mean = method.mean(fused)
    log_variance = method.log_variance(fused)
    noise = torch.randn((draws, 2, 5, 12), generator=generator(3))
    task = torch.zeros(2, 5)
    kl, hard, flagged = 0.0, 0.0, 0
    for k, b in itertools.product(range(2), range(5)):
        sigma = torch.exp(0.5 * log_variance[k, b])
        for s in range(draws):
            logits = method.head.classify(mean[k, b] + 1.3 * sigma * noise[s, k, b])
            task[k, b] += F.cross_entropy(logits, seen.labels[b]).item() / draws
        kl += reference_kl(Normal(mean[k, b], sigma), Normal(torch.zeros(12), 0.7)).sum().item() / 10
        if COMBINATION[k, b] in (1, 4):
            hard += task[k, b].item() / 10
            flagged += 1
    if mode == "released":
        hard = flagged * task.mean().item()
    if mode == "constant":
        hard = 10 * 2 / 7 * task.mean().item()
    torch.testing.assert_close(got.task, task, rtol=1e-4, atol=1e-5)
    assert got.terms["task"].item() == pytest.approx(task.mean().item(), rel=1e-4)
    assert got.terms["kl"].item() == pytest.approx(kl, rel=1e-4)
    assert flagged
    assert got.terms["hard"].item() == pytest.approx(hard, rel=1e-4)
    assert got.total.item() == pytest.approx(task.mean().item() + 0.05 * kl + 0.4 * hard, rel=1e-4)
    assert got.variance is not None
    torch.testing.assert_close(got.variance, log_variance.detach().exp().mean(-1))
    assert torch.equal(got.combination, COMBINATION)


def test_on_a_map_every_position_has_its_gaussian(make_parts: MakeParts, make_seen: MakeSeen) -> None:
    settings = DMRNetSettings(noise_scale=0.8, draws=2, kl_weight=0.1, head_norm="layer")
    method, seen = DMRNet(settings, make_parts()), make_seen(COMBINATION, positions=(2, 3))
    got = method.losses(seen, generator(3))
    fused = fused_by_loops(seen)
    noise = torch.randn((2, 2, 5, 2, 3, 12), generator=generator(3))
    task, kl, variance = torch.zeros(2, 5), 0.0, torch.zeros(2, 5)
    for k, b in itertools.product(range(2), range(5)):
        embeddings = torch.zeros(2, 12)
        for y, x in itertools.product(range(2), range(3)):
            mean, sigma = method.mean(fused[k, b, y, x][None])[0], method.log_variance(fused[k, b, y, x][None])[0]
            sigma = torch.exp(0.5 * sigma)
            variance[k, b] += sigma.square().mean() / 6
            kl += reference_kl(Normal(mean, sigma), Normal(0.0, 1.0)).sum().item() / 60
            embeddings += (mean + 0.8 * sigma * noise[:, k, b, y, x]) / 6
        logits = method.head.classify(embeddings)
        task[k, b] = F.cross_entropy(logits, seen.labels[b].repeat(2))
    torch.testing.assert_close(got.task, task.detach(), rtol=1e-4, atol=1e-5)
    assert got.terms["kl"].item() == pytest.approx(kl, rel=1e-4)
    assert got.variance is not None
    torch.testing.assert_close(got.variance, variance.detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("task", ["classification", "segmentation"])
def test_every_draw_meets_the_masks_of_its_own_combination(make_network: Callable[..., Any], task: Task) -> None:
    """Without noise all draws are the same, so their number must not matter; the head of a map reads the masks."""
    combination, losses = torch.tensor([[0, 6, 3, 4, 1, 6, 2], [6, 1, 0, 0, 5, 4, 3]]), []
    for draws in (1, 3):
        network, inputs, labels = make_network(DMRNetSettings(noise_scale=0.0, draws=draws), task)
        losses.append(network.losses(inputs, labels, combination, generator()).task)
    torch.testing.assert_close(losses[0], losses[1])


def test_a_fixed_variance_is_noise_alone(make_parts: MakeParts, make_seen: MakeSeen) -> None:
    settings = DMRNetSettings(variance="fixed", noise_scale=0.6, prior_std=2.0, head_norm="layer")
    method, seen = DMRNet(settings, make_parts()), make_seen(COMBINATION)
    assert not any(name.startswith("log_variance") for name, _ in method.named_parameters())
    got = method.losses(seen, generator(3))
    mean = method.mean(fused_by_loops(seen))
    drawn = mean + 0.6 * torch.randn((2, 5, 12), generator=generator(3))
    task = torch.stack([F.cross_entropy(row, seen.labels, reduction="none") for row in method.head.classify(drawn)])
    torch.testing.assert_close(got.task, task.detach())
    kl = reference_kl(Normal(mean, torch.ones_like(mean)), Normal(0.0, 2.0)).sum(-1).mean()
    assert got.terms["kl"].item() == pytest.approx(kl.item(), rel=1e-5)
    assert got.variance is not None
    assert torch.equal(got.variance, torch.ones(2, 5))
    found = method.predict(seen.features, seen.masks)
    assert found.variance is not None
    assert torch.equal(found.variance, torch.ones(2, 5))


def test_the_prediction_is_the_mean_embedding_and_has_no_noise(
    make_parts: MakeParts,
    make_seen: MakeSeen,
    under_two_global_seeds: Callable[[Callable[[], Any]], tuple[Any, Any]],
) -> None:
    method, seen = DMRNet(DMRNetSettings(noise_scale=5.0), make_parts()).eval(), make_seen(COMBINATION)
    one, other = under_two_global_seeds(lambda: method.predict(seen.features, seen.masks))
    assert torch.equal(one.logits, other.logits)
    fused = fused_by_loops(seen)
    expected = method.mean(fused) @ method.head.classify.weight.T + method.head.classify.bias
    torch.testing.assert_close(one.logits, expected)
    assert one.embedding is not None
    torch.testing.assert_close(one.embedding, method.mean(fused))
    assert one.variance is not None
    torch.testing.assert_close(one.variance, method.log_variance(fused).exp().mean(-1))


@torch.no_grad()
def test_the_prediction_is_the_mean_of_the_drawn_ones(make_parts: MakeParts, make_seen: MakeSeen) -> None:
    """The head is linear, so the mean of its logits over the distribution is its logits of the mean."""
    method, seen = DMRNet(DMRNetSettings(head_norm="layer"), make_parts()).eval(), make_seen(COMBINATION)
    found = method.predict(seen.features, seen.masks).logits
    mean, log_variance = method.gaussian(seen.features, seen.masks)
    drawn = Normal(mean, torch.exp(0.5 * log_variance)).sample((20_000,))
    logits = method.head(drawn.flatten(0, 1), [], seen.masks).view(20_000, *found.shape)
    error = (logits.mean(0) - found).abs() / (logits.std(0) / 20_000**0.5)
    assert error.max() < 5


def test_the_log_variance_is_clamped(make_parts: MakeParts, make_seen: MakeSeen) -> None:
    method = DMRNet(DMRNetSettings(head_norm="none"), make_parts())
    combination = torch.full((1, 50), 6)
    huge = make_seen(combination, scale=1e6)
    _, log_variance = method.gaussian(huge.features, huge.masks)
    assert log_variance.min() == -LOG_VARIANCE_LIMIT
    assert log_variance.max() == LOG_VARIANCE_LIMIT
    losses = method.losses(make_seen(combination, scale=1e3), generator())
    losses.total.backward()
    assert losses.total.isfinite()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in method.parameters())


@pytest.mark.parametrize("combination", [[0, 0], [6, 6], [0, 6]])
@pytest.mark.parametrize("mode", ["intended", "released"])
def test_batches_of_two_that_lack_combinations(
    make_parts: MakeParts, make_seen: MakeSeen, combination: list[int], mode: Any
) -> None:
    method = DMRNet(DMRNetSettings(hard_mode=mode), make_parts())
    method.hard[[1, 2]] = True
    got = method.losses(make_seen(torch.tensor([combination])), generator())
    got.total.backward()
    assert got.total.isfinite()
    assert got.terms["hard"].item() == 0.0
    assert all(p.grad is not None and p.grad.isfinite().all() for p in method.parameters())


@pytest.mark.parametrize("task", ["classification", "segmentation"])
@pytest.mark.parametrize("head_norm", ["none", "layer", "batch"])
def test_the_kl_weight_reaches_the_gradient(make_network: Callable[..., Any], task: Task, head_norm: Any) -> None:
    """Without noise nothing but the KL depends on the variance, so the gradient there is kl_weight × that of the KL."""
    settings = DMRNetSettings(kl_weight=0.0, noise_scale=0.0, prior_std=0.5, head_norm=head_norm)
    combination = torch.tensor([[0, 6, 3, 4, 1, 6, 2]])
    gradients = []
    for kl_weight in (0.0, 0.3):
        network, inputs, labels = make_network(replace(settings, kl_weight=kl_weight), task)
        network.losses(inputs, labels, combination, generator()).total.backward()
        weight = network.method.log_variance.linear.weight
        gradients.append(weight.grad)
    masks = network.combinations[combination]
    mean, log_variance = network.method.gaussian(network.encode(inputs, masks[0]), masks)
    assert mean.ndim == (5 if task == "segmentation" else 3)
    kl = reference_kl(Normal(mean, torch.exp(0.5 * log_variance)), Normal(0.0, 0.5)).sum(-1).mean()
    expected = 0.3 * torch.autograd.grad(kl, weight)[0]
    assert gradients[0].abs().max() == 0
    assert expected.abs().max() > 1e-3
    torch.testing.assert_close(gradients[1], expected, rtol=1e-4, atol=1e-6)
