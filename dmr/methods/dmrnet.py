"""DMRNet: a representation that is trained on apart from the one that is used.

Wei, Luo, Wang, Luo, "Robust Multimodal Learning via Representation Decoupling", ECCV 2024 (arXiv 2407.04458).

Letters: B samples, K combinations per sample, N draws, C combinations, S positions of a map, Z fused features, V hard
combinations.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from dmr.combinations import Combinations
from dmr.distributed.ranks import BatchShard, alone
from dmr.methods.base import (
    CombinationSums,
    Components,
    Features,
    MaskedBatch,
    Method,
    MethodSettings,
    Prediction,
    StepLosses,
    largest,
)
from dmr.methods.heads import HeadNorm, ProjectionHead, pooled
from dmr.methods.summed_heads import Summed, summed_heads
from dmr.settings import setting

LOG_VARIANCE_LIMIT = 10.0
HardMode = Literal["intended", "released", "constant"]


@dataclass(frozen=True)
class DMRNetSettings(MethodSettings):
    """`hard_count: null` takes half of the combinations that are not full, as the paper does for two modalities.

    `variance: fixed` (σ = 1, only noise), `hard_mode: released` and `constant`, `hard_by: random` are controls.
    """

    prior_std: float = setting(1.0, gt=0.0)
    noise_scale: float = setting(1.0, ge=0.0)
    variance: Literal["learned", "fixed"] = "learned"
    draws: int = setting(1, ge=1, le=64)
    head_norm: HeadNorm = "none"
    kl_weight: float = setting(1e-3, ge=0.0)
    hard_weight: float = setting(0.3, ge=0.0)
    hard_count: int | None = setting(None, ge=0)
    hard_by: Literal["loss", "variance", "random"] = "loss"
    hard_mode: HardMode = "intended"
    warmup_epochs: int = setting(6, ge=0)
    remine_every: int | None = setting(None, ge=1)


class DMRNet(Method):
    """Two heads give a Gaussian N(μ, σ²) of the fused features; one task head serves drawn embeddings and the mean."""

    Settings = DMRNetSettings
    search_space: ClassVar[dict[str, Any]] = {
        "model.prior_std": {"log_uniform": [0.1, 3.0]},
        "model.noise_scale": {"uniform": [0.0, 2.0]},
        "model.kl_weight": {"log_uniform": [1e-5, 1e-1]},
        "model.hard_weight": {"uniform": [0.0, 1.0]},
    }

    def __init__(self, settings: DMRNetSettings, parts: Components) -> None:
        super().__init__(settings, parts)
        self.fusion = parts.fusion()
        self.trunk = parts.trunk(self.fusion.width)
        width = parts.embedding_width
        self.mean = ProjectionHead(self.trunk.width, settings.head_norm, width)
        if settings.variance == "learned":
            self.log_variance = ProjectionHead(self.trunk.width, settings.head_norm, width)
        self.head = parts.head(width)
        self.register_buffer("hard", torch.zeros(len(parts.combinations), dtype=torch.bool))
        self.register_buffer("mined", torch.zeros((3, len(parts.combinations)), dtype=torch.float64))
        self.hard: Tensor
        self.mined: Tensor

    def losses(self, seen: MaskedBatch, generator: torch.Generator) -> StepLosses:
        mean, log_variance = self.gaussian(seen.features, seen.masks)
        draws = self.settings.draws
        embedding = draw(mean, log_variance, self.settings.noise_scale, draws, generator, seen.part).flatten(0, 1)
        logits = self.head(embedding, seen.features.skips, seen.masks.repeat(draws, 1, 1))
        task = self.criterion(logits, seen.labels).unflatten(0, (draws, -1)).mean(0)
        kl = kl_divergence(mean, log_variance, self.settings.prior_std).mean()
        hard = hard_loss(task, seen.combination, self.hard, self.settings.hard_mode, seen.part)
        total = task.mean() + self.settings.kl_weight * kl + self.settings.hard_weight * hard
        parts = {"task": task.mean().detach(), "kl": kl.detach(), "hard": hard.detach()}
        return StepLosses(total, task.detach(), seen.combination, variance_of(log_variance.detach()), parts)

    def gaussian(self, features: Features, masks: Tensor) -> tuple[Tensor, Tensor]:
        """μ and s = log σ², each (K, B, *S, Z) in float32; s is `limited`."""
        fused = self.trunk(self.fusion(features.contexts, masks))
        mean = self.mean(fused).float()
        if self.settings.variance == "fixed":
            return mean, torch.zeros_like(mean)
        return mean, limited(self.log_variance(fused).float())

    def predict(self, features: Features, masks: Tensor) -> Prediction:
        mean, log_variance = self.gaussian(features, masks)
        return Prediction(self.head(mean, features.skips, masks), variance_of(log_variance), pooled(mean))

    def summed(self) -> Summed | None:
        own = type(self)
        if own.predict is not DMRNet.predict or own.gaussian is not DMRNet.gaussian:
            return None
        fixed = self.settings.variance == "fixed"
        return summed_heads(
            self.fusion,
            self.trunk,
            self.mean,
            self.head,
            None if fixed else self.log_variance,
            (lambda mean: mean.new_ones(mean.shape[:2])) if fixed else (lambda s: variance_of(limited(s))),
        )

    def start_epoch(self, epoch: int, combinations: Combinations, generator: torch.Generator) -> None:
        """Mine the hard combinations when the warm-up is over, and every `remine_every` epochs after it."""
        since = epoch - self.settings.warmup_epochs
        again = self.settings.remine_every
        if since == 0 or (since > 0 and again is not None and since % again == 0):
            chosen = mine(self.mined.cpu(), combinations, self.settings, generator)
            self.hard.copy_(chosen)
            self.mined.zero_()

    def end_epoch(self, epoch: int, sums: Tensor) -> None:
        self.mined += sums.to(self.mined.device)

    def hard_combinations(self) -> Tensor:
        return self.hard

    @staticmethod
    def warmup_of(settings: DMRNetSettings) -> int:
        return settings.warmup_epochs


def limited(log_variance: Tensor) -> Tensor:
    """s within ±`LOG_VARIANCE_LIMIT`."""
    return log_variance.clamp(-LOG_VARIANCE_LIMIT, LOG_VARIANCE_LIMIT)


def variance_of(log_variance: Tensor) -> Tensor:
    """(K, B): σ² averaged over positions and features, from s (K, B, *S, Z)."""
    return log_variance.exp().flatten(2).mean(-1)


def draw(
    mean: Tensor,
    log_variance: Tensor,
    noise_scale: float,
    draws: int,
    generator: torch.Generator,
    part: BatchShard | None = None,
) -> Tensor:
    """N embeddings e = μ + τ·exp(s/2)⊙ε, ε ~ N(0, I): (N, K, B, *S, Z) from (K, B, *S, Z)."""
    part = part or alone(mean.shape[1])
    noise = part.draw(torch.randn, (draws, *mean.shape), 2, generator, device=mean.device, dtype=mean.dtype)
    return mean + noise_scale * torch.exp(0.5 * log_variance) * noise


def kl_divergence(mean: Tensor, log_variance: Tensor, prior_std: float | Tensor) -> Tensor:
    """KL(N(μ, σ²) ‖ N(0, σ_0²)) from s = log σ², summed over features, mean over positions: (K, B) from
    (K, B, *S, Z). The paper's section 3.3 has σ_0 = 1; a tensor () lets networks trained as one batch differ in it.
    """
    log_ratio = torch.as_tensor(prior_std, dtype=torch.float64).log() - 0.5 * log_variance
    quadratic = (log_variance.exp() + mean.square()) / (2.0 * prior_std**2)
    summed = (log_ratio + quadratic - 0.5).sum(-1)
    return summed.flatten(2).mean(-1) if summed.ndim > 2 else summed


def hard_loss(
    task: Tensor, combination: Tensor, hard: Tensor, mode: HardMode, part: BatchShard | None = None
) -> Tensor:
    """The hard-combination term, () from losses and combinations (K, B) and the hard ones among all, (C,) bool.

    intended: (1/KB) Σ of the losses of the samples seen with a hard combination.
    released: what the released code computes, n_hard × the mean loss of *all* samples (its (B,) losses and (B,1,1,1)
    mask broadcast to (B,1,1,B)), n_hard being the samples of the batch seen with a hard combination.
    constant: the mean loss of all samples × KB·V/C, the expectation of n_hard under uniform sampling.
    """
    part = part or alone(task.shape[1])
    if mode == "constant":
        return len(task) * part.whole * hard.to(task.dtype).mean() * task.mean()
    flags = hard[combination].to(task.dtype)
    if mode == "released":
        return part.ranks.total(flags.sum()) * task.mean()
    return (flags * task).mean()


def mine(sums: Tensor, combinations: Combinations, settings: DMRNetSettings, generator: torch.Generator) -> Tensor:
    """(C,) bool: the V combinations, not the full one, with the largest mean variance (or loss, or at random).

    Args:
        sums: (3, C), the rows of `CombinationSums`. What was never drawn is never hard.
    """
    mined = CombinationSums(*sums)
    if settings.hard_by == "random":
        score = torch.rand(len(combinations), generator=generator, dtype=torch.float64)
    else:
        score = (mined.loss if settings.hard_by == "loss" else mined.variance) / mined.samples.clamp(min=1)
    return largest(score, mined.samples > 0, combinations, settings.hard_count)
