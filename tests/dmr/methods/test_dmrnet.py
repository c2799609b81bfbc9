from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.distributions import Normal
from torch.distributions import kl_divergence as reference_kl

from dmr.combinations import Combinations, all_combinations
from dmr.methods.base import Components, MaskedBatch
from dmr.methods.dmrnet import LOG_VARIANCE_LIMIT, DMRNet, DMRNetSettings, draw, hard_loss, kl_divergence, mine

MakeParts = Callable[..., Components]
MakeSeen = Callable[..., MaskedBatch]


def of(count: int) -> Combinations:
    return all_combinations([f"m{index}" for index in range(count)])


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def sums_of(loss: list[float], variance: list[float], count: list[float]) -> Tensor:
    """(3, C) sums from means and counts."""
    counts = torch.tensor(count, dtype=torch.float64)
    return torch.stack([torch.tensor(loss) * counts, torch.tensor(variance) * counts, counts]).double()


# --- the Gaussian -----------------------------------------------------------------------------------------------------


def test_kl_by_hand() -> None:
    # μ = (1, 0), σ² = (4, 1), σ_0 = 1: ½(4 + 1 − 1 − ln 4) + 0 = 2 − ln 2
    got = kl_divergence(torch.tensor([1.0, 0.0]), torch.tensor([math.log(4), 0.0]), 1.0)
    assert got.item() == pytest.approx(2 - math.log(2), abs=1e-6)
    # μ = 0, σ = 1, σ_0 = 2: ln 2 + 1/8 − 1/2
    got = kl_divergence(torch.zeros(1), torch.zeros(1), 2.0)
    assert got.item() == pytest.approx(math.log(2) - 0.375, abs=1e-6)


@pytest.mark.parametrize("prior_std", [0.1, 1.0, 2.5])
def test_kl_against_torch(prior_std: float) -> None:
    mean = torch.randn((2, 5, 7), dtype=torch.float64)
    log_variance = torch.empty_like(mean).uniform_(-LOG_VARIANCE_LIMIT, LOG_VARIANCE_LIMIT)
    expected = reference_kl(Normal(mean, torch.exp(0.5 * log_variance)), Normal(torch.zeros_like(mean), prior_std)).sum(
        -1
    )
    torch.testing.assert_close(kl_divergence(mean, log_variance, prior_std), expected)


def test_networks_of_one_batch_each_have_their_own_prior() -> None:
    mean, log_variance, priors = torch.randn(2, 5), torch.randn(2, 5), [0.3, 1.0, 2.7]
    got = torch.func.vmap(kl_divergence, in_dims=(None, None, 0))(mean, log_variance, torch.tensor(priors))
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, torch.stack([kl_divergence(mean, log_variance, prior) for prior in priors]))


@pytest.mark.parametrize("prior_std", [0.1, 1.0, 2.5])
def test_kl_of_maps_is_the_sum_over_channels_and_the_mean_over_positions(prior_std: float) -> None:
    mean, log_variance = torch.randn((2, 3, 4, 5, 6)).double(), torch.randn((2, 3, 4, 5, 6)).double()
    got = kl_divergence(mean, log_variance, prior_std)
    assert got.shape == (2, 3)
    for k, b in itertools.product(range(2), range(3)):
        each = [
            reference_kl(
                Normal(mean[k, b, y, x], torch.exp(0.5 * log_variance[k, b, y, x])), Normal(torch.zeros(6), prior_std)
            ).sum()
            for y, x in itertools.product(range(4), range(5))
        ]
        torch.testing.assert_close(got[k, b], torch.stack(each).mean())


def released_kl(mean: Tensor, sigma: Tensor) -> Tensor:
    """() of the authors' classification code: everything a sample has is summed, channels and positions alike."""
    each = (sigma**2 + mean**2 - torch.log(sigma**2) - 1) * 0.5
    return each.flatten(1).sum(1).mean()


@pytest.mark.parametrize(("positions", "ratio"), [((4, 4), 16), ((2, 5), 10), ((), 1)])
def test_the_released_kl_of_maps_is_as_many_times_ours_as_there_are_positions(
    positions: tuple[int, ...], ratio: int
) -> None:
    mean, log_variance = torch.randn((5, *positions, 12)).double(), torch.randn((5, *positions, 12)).double()
    ours = kl_divergence(mean[None], log_variance[None], 1.0).mean()
    torch.testing.assert_close(ratio * ours, released_kl(mean, torch.exp(0.5 * log_variance)))


def test_kl_is_zero_at_the_prior_and_has_a_gradient() -> None:
    mean = torch.zeros((1, 3), dtype=torch.float64, requires_grad=True)
    log_variance = torch.full((1, 3), 2 * math.log(0.5), dtype=torch.float64, requires_grad=True)
    kl_divergence(mean, log_variance, 0.5).sum().backward()
    torch.testing.assert_close(kl_divergence(mean, log_variance, 0.5), torch.zeros(1, dtype=torch.float64))
    assert mean.grad is not None
    assert log_variance.grad is not None
    torch.testing.assert_close(mean.grad, torch.zeros_like(mean))
    torch.testing.assert_close(log_variance.grad, torch.zeros_like(mean))
    shifted = torch.ones((1, 3), requires_grad=True)
    kl_divergence(shifted, torch.zeros((1, 3)), 0.5).sum().backward()
    assert shifted.grad is not None
    torch.testing.assert_close(shifted.grad, torch.full((1, 3), 4.0))  # d/dμ μ²/(2σ_0²) = μ/σ_0²


@pytest.mark.parametrize("noise_scale", [0.5, 1.0, 2.0])
def test_draws_have_the_mean_and_the_spread(noise_scale: float) -> None:
    mean = torch.tensor([[[0.0, -3.0, 10.0]]])
    log_variance = torch.tensor([[[0.0, 2.0, -4.0]]])
    drawn = draw(mean, log_variance, noise_scale, 40_000, generator())
    assert drawn.shape == (40_000, 1, 1, 3)
    spread = noise_scale * torch.exp(0.5 * log_variance)
    error = (drawn.mean(0) - mean).abs() / spread
    assert (error < 5 / math.sqrt(40_000)).all()
    torch.testing.assert_close(drawn.std(0) / spread, torch.ones_like(spread), rtol=0.03, atol=0)
    standard = ((drawn - mean) / spread).flatten()
    assert abs((standard**4).mean().item() - 3) < 0.15


def test_without_noise_the_draw_is_the_mean() -> None:
    mean, log_variance = torch.randn(2, 4, 3), torch.randn(2, 4, 3)
    assert torch.equal(draw(mean, log_variance, 0.0, 2, generator()), mean.expand(2, 2, 4, 3))


def test_draws_come_from_the_generator_alone(
    under_two_global_seeds: Callable[[Callable[[], Any]], tuple[Any, Any]],
) -> None:
    mean = torch.zeros(1, 8, 4)
    one, other = under_two_global_seeds(lambda: draw(mean, mean, 1.0, 3, generator(5)))
    assert torch.equal(one, other)
    assert not torch.equal(one, draw(mean, mean, 1.0, 3, generator(6)))
    assert not torch.equal(one[0], one[1])


# --- the hard-combination term ----------------------------------------------------------------------------------------


HARD = torch.tensor([False, True, False, False, True, False, False])  # of the combinations of three modalities


@pytest.mark.parametrize("shape", [(1, 6), (3, 4), (2, 2)])
def test_hard_loss_as_intended_is_the_loop(shape: tuple[int, int]) -> None:
    task, combination = torch.rand(shape), torch.randint(0, 7, shape)
    loop = sum(task[k, b].item() for k in range(shape[0]) for b in range(shape[1]) if combination[k, b] in (1, 4))
    assert hard_loss(task, combination, HARD, "intended").item() == pytest.approx(loop / task.numel(), abs=1e-6)


def test_hard_loss_by_hand() -> None:
    task, combination = torch.tensor([[1.0, 2.0, 3.0, 6.0]]), torch.tensor([[4, 0, 1, 6]])
    assert hard_loss(task, combination, HARD, "intended").item() == 1.0  # (1 + 3) / 4
    assert hard_loss(task, combination, HARD, "released").item() == 6.0  # 2 × (12 / 4)
    assert hard_loss(task, combination, HARD, "constant").item() == pytest.approx(24 / 7)  # 4 · 2/7 × (12 / 4)


def test_hard_loss_as_released_is_what_its_broadcast_computes() -> None:
    task, combination = torch.rand(8), torch.tensor([1, 4, 1, 0, 6, 5, 2, 4])
    broadcast = task * HARD[combination].float().view(8, 1, 1, 1)
    assert broadcast.shape == (8, 1, 1, 8)
    released = hard_loss(task[None], combination[None], HARD, "released")
    torch.testing.assert_close(released, broadcast.sum() / 8)
    torch.testing.assert_close(released, 4 * task.mean())


def test_the_constant_is_the_expectation_of_the_released_term() -> None:
    task = torch.rand(1, 4)
    uniform = [torch.tensor([drawn]) for drawn in itertools.product(range(7), repeat=4)]
    released = torch.stack([hard_loss(task, combination, HARD, "released") for combination in uniform])
    constant = {hard_loss(task, combination, HARD, "constant").item() for combination in uniform}
    assert len(constant) == 1
    assert constant.pop() == pytest.approx(released.double().mean().item(), rel=1e-5)


@pytest.mark.parametrize("mode", ["intended", "released", "constant"])
def test_nothing_hard_is_zero(mode: Any) -> None:
    nothing = torch.zeros(7, dtype=torch.bool)
    assert hard_loss(torch.rand(2, 3), torch.randint(0, 7, (2, 3)), nothing, mode).item() == 0.0


def test_only_hard_samples_get_the_gradient_of_the_intended_term() -> None:
    task = torch.rand((1, 4), requires_grad=True)
    hard_loss(task, torch.tensor([[1, 0, 6, 4]]), HARD, "intended").backward()
    assert task.grad is not None
    assert task.grad.tolist() == [[0.25, 0.0, 0.0, 0.25]]


# --- mining -----------------------------------------------------------------------------------------------------------


def test_mining_by_variance_and_by_loss() -> None:
    # m0, m1, m2, m0-m1, m0-m2, m1-m2, full: the means decide, not the sums; the full one is never hard
    sums = sums_of([1, 2, 3, 4, 5, 6, 9], [6, 5, 4, 3, 2, 1, 9], [9, 1, 5, 2, 8, 3, 50])
    by_variance = mine(sums, of(3), DMRNetSettings(hard_by="variance"), generator())
    assert by_variance.tolist() == [True, True, True, False, False, False, False]
    by_loss = mine(sums, of(3), DMRNetSettings(hard_by="loss", hard_count=2), generator())
    assert by_loss.tolist() == [False, False, False, False, True, True, False]


def test_the_paper_mines_one_of_two() -> None:
    chosen = mine(sums_of([1, 2, 3], [0.2, 0.4, 0.9], [5, 5, 5]), of(2), DMRNetSettings(), generator())
    assert chosen.tolist() == [False, True, False]


@given(
    st.integers(2, 4),
    st.sampled_from(["variance", "loss", "random"]),
    st.one_of(st.none(), st.integers(0, 40)),
    st.integers(0, 10_000),
)
def test_never_full_never_unseen_and_as_many_as_asked_for(
    modalities: int, hard_by: Any, hard_count: int | None, seed: int
) -> None:
    combinations, numbers = of(modalities), np.random.default_rng(seed)
    count = numbers.integers(0, 3, len(combinations)).astype(float).tolist()
    sums = sums_of(numbers.random(len(count)).tolist(), numbers.random(len(count)).tolist(), count)
    chosen = mine(sums, combinations, DMRNetSettings(hard_by=hard_by, hard_count=hard_count), generator(seed))
    seen = sums[2] > 0
    seen[combinations.full] = False
    assert not chosen[combinations.full]
    assert not (chosen & ~seen).any()
    wanted = (len(combinations) - 1) // 2 if hard_count is None else hard_count
    assert chosen.sum() == min(wanted, int(seen.sum()))
    if hard_by != "random":
        score = sums[1 if hard_by == "variance" else 0] / sums[2]
        passed_over = seen & ~chosen
        if chosen.any() and passed_over.any():
            assert score[chosen].min() >= score[passed_over].max()


def test_mining_at_random_is_uniform_and_comes_from_the_generator(
    under_two_global_seeds: Callable[[Callable[[], Any]], tuple[Any, Any]],
) -> None:
    settings = DMRNetSettings(hard_by="random", hard_count=2)
    sums = sums_of([1] * 7, list(range(7)), [1] * 7)
    times = torch.stack([mine(sums, of(3), settings, generator(seed)) for seed in range(900)]).sum(0)
    assert times[6] == 0
    assert ((times[:6] - 300).abs() < 5 * math.sqrt(200)).all()
    one, other = under_two_global_seeds(lambda: mine(sums, of(3), settings, generator(3)))
    assert torch.equal(one, other)


def hard_after_each_epoch(parts: Components, settings: DMRNetSettings, hardest: list[int]) -> list[list[int]]:
    """The hard combinations in force in each epoch, when combination `hardest[epoch]` has the largest variance."""
    method, history = DMRNet(settings, parts), []
    for epoch, largest in enumerate(hardest):
        method.start_epoch(epoch, of(3), generator(epoch))
        history.append(method.hard_combinations().nonzero().flatten().tolist())
        variance = [1.0] * 7
        variance[largest] = 3.0
        method.end_epoch(epoch, sums_of([1.0] * 7, variance, [4.0] * 7))
    return history


def test_mined_once_when_the_warm_up_is_over(make_parts: MakeParts) -> None:
    settings = DMRNetSettings(hard_by="variance", warmup_epochs=3, hard_count=1)
    assert hard_after_each_epoch(make_parts(), settings, [2, 2, 4, 5, 5, 5, 5]) == [[], [], [], [2], [2], [2], [2]]


def test_mined_again_from_what_happened_since(make_parts: MakeParts) -> None:
    settings = DMRNetSettings(hard_by="variance", warmup_epochs=2, remine_every=2, hard_count=1)
    # from epochs 0-1, 2-3, 4-5: statistics older than the last mining do not count
    assert hard_after_each_epoch(make_parts(), settings, [1, 1, 4, 4, 5, 5, 0, 0]) == [
        [],
        [],
        [1],
        [1],
        [4],
        [4],
        [5],
        [5],
    ]


def test_without_warm_up_nothing_is_known_and_nothing_is_hard(make_parts: MakeParts) -> None:
    assert hard_after_each_epoch(make_parts(), DMRNetSettings(warmup_epochs=0), [1, 1]) == [[], []]
    again = DMRNetSettings(hard_by="variance", warmup_epochs=0, remine_every=1, hard_count=1)
    assert hard_after_each_epoch(make_parts(), again, [1, 4, 2]) == [[], [1], [4]]


def test_the_warm_up_is_what_the_settings_say() -> None:
    assert DMRNet.warmup_of(DMRNetSettings()) == 6
    assert DMRNet.warmup_of(DMRNetSettings(warmup_epochs=2)) == 2
