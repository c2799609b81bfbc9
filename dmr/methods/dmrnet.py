"""DMRNet: a representation that is trained on apart from the one that is used.

Wei, Luo, Wang, Luo, "Robust Multimodal Learning via Representation Decoupling", ECCV 2024 (arXiv 2407.04458).

Letters: B samples, K combinations a sample, S draws, C combinations, Z fused features, V hard combinations.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dmr.combinations import Combinations
from dmr.methods.base import Method, MethodSettings, Prediction, StepLosses
from dmr.methods.heads import HeadNorm, ProjectionHead
from dmr.settings import setting

LOG_VARIANCE_LIMIT = 10.0


@dataclass(frozen=True)
class DMRNetSettings(MethodSettings):
    """`hard_count: null` takes half of the combinations that are not full, as the paper does for two modalities."""

    prior_std: float = setting(1.0, gt=0.0)
    noise_scale: float = setting(1.0, ge=0.0)
    draws: int = setting(1, ge=1, le=64)
    head_norm: HeadNorm = "batch"
    kl_weight: float = setting(1e-3, ge=0.0)
    hard_weight: float = setting(0.3, ge=0.0)
    hard_count: int | None = setting(None, ge=0)
    hard_by: Literal["variance", "loss", "random"] = "variance"
    hard_mode: Literal["intended", "released"] = "intended"
    warmup_epochs: int = setting(6, ge=0)
    remine_every: int | None = setting(None, ge=1)


class DMRNet(Method):
    """Two heads give a Gaussian N(μ, σ²) of the fused features; one classifier serves drawn embeddings and the mean."""

    Settings = DMRNetSettings
    search_space: ClassVar[dict[str, Any]] = {
        "model.prior_std": {"log_uniform": [0.1, 3.0]},
        "model.noise_scale": {"uniform": [0.0, 2.0]},
        "model.kl_weight": {"log_uniform": [1e-5, 1e-1]},
        "model.hard_weight": {"uniform": [0.0, 1.0]},
    }

    def __init__(self, settings: DMRNetSettings, fused_width: int, num_classes: int, num_combinations: int) -> None:
        super().__init__(settings, fused_width, num_classes, num_combinations)
        self.settings = settings
        self.mean = ProjectionHead(fused_width, settings.head_norm)
        self.log_variance = ProjectionHead(fused_width, settings.head_norm)
        self.classify = nn.Linear(fused_width, num_classes)
        self.register_buffer("hard", torch.zeros(num_combinations, dtype=torch.bool))
        self.register_buffer("mined", torch.zeros((3, num_combinations), dtype=torch.float64))
        self.hard: Tensor
        self.mined: Tensor

    def losses(self, fused: Tensor, labels: Tensor, combination: Tensor, generator: torch.Generator) -> StepLosses:
        mean, log_variance = self.gaussian(fused)
        embedding = draw(mean, log_variance, self.settings.noise_scale, self.settings.draws, generator)
        logits = self.classify(embedding)
        repeated = labels.expand(logits.shape[:-1])
        task = F.cross_entropy(logits.flatten(0, -2), repeated.flatten(), reduction="none")
        task = task.view(repeated.shape).mean(0)
        kl = kl_divergence(mean, log_variance, self.settings.prior_std).mean()
        hard = hard_loss(task, self.hard[combination], self.settings.hard_mode)
        total = task.mean() + self.settings.kl_weight * kl + self.settings.hard_weight * hard
        parts = {"task": task.mean().detach(), "kl": kl.detach(), "hard": hard.detach()}
        return StepLosses(total, task.detach(), log_variance.detach().exp().mean(-1), parts)

    def gaussian(self, fused: Tensor) -> tuple[Tensor, Tensor]:
        """μ and s = log σ², each of `fused`'s shape; s is kept within ±`LOG_VARIANCE_LIMIT`."""
        return self.mean(fused), self.log_variance(fused).clamp(-LOG_VARIANCE_LIMIT, LOG_VARIANCE_LIMIT)

    def predict(self, fused: Tensor) -> Prediction:
        mean, log_variance = self.gaussian(fused)
        return Prediction(self.classify(mean), log_variance.exp().mean(-1))

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

    @staticmethod
    def warmup_of(settings: DMRNetSettings) -> int:
        return settings.warmup_epochs


def draw(mean: Tensor, log_variance: Tensor, noise_scale: float, draws: int, generator: torch.Generator) -> Tensor:
    """S embeddings e = μ + τ·exp(s/2)⊙ε, ε ~ N(0, I): (S, K, B, Z) from (K, B, Z)."""
    noise = torch.randn((draws, *mean.shape), generator=generator, device=mean.device, dtype=mean.dtype)
    return mean + noise_scale * torch.exp(0.5 * log_variance) * noise


def kl_divergence(mean: Tensor, log_variance: Tensor, prior_std: float) -> Tensor:
    """KL(N(μ, σ²) ‖ N(0, σ_0²)) from s = log σ², summed over the last dimension: (K, B) from (K, B, Z)."""
    log_ratio = math.log(prior_std) - 0.5 * log_variance
    quadratic = (log_variance.exp() + mean.square()) / (2.0 * prior_std**2)
    return (log_ratio + quadratic - 0.5).sum(-1)


def hard_loss(task: Tensor, hard: Tensor, mode: Literal["intended", "released"]) -> Tensor:
    """The hard-combination term, () from losses and flags (K, B).

    intended: (1/KB) Σ of the losses of the samples seen with a hard combination.
    released: what the released code computes, n_hard × the mean loss of *all* samples (its (B,) losses and (B,1,1,1)
    mask broadcast to (B,1,1,B)).
    """
    flags = hard.to(task.dtype)
    if mode == "released":
        return flags.sum() * task.mean()
    return (flags * task).mean()


def mine(sums: Tensor, combinations: Combinations, settings: DMRNetSettings, generator: torch.Generator) -> Tensor:
    """(C,) bool: the V combinations, not the full one, with the largest mean variance (or loss, or at random).

    Args:
        sums: (3, C) sums of loss, of variance, and counts. What was never drawn is never hard.
    """
    candidates = len(combinations) - 1
    count = candidates // 2 if settings.hard_count is None else min(settings.hard_count, candidates)
    if settings.hard_by == "random":
        score = torch.rand(len(combinations), generator=generator, dtype=torch.float64)
    else:
        row = 0 if settings.hard_by == "loss" else 1
        score = sums[row] / sums[2].clamp(min=1)
    score = torch.where(sums[2] > 0, score, -math.inf)
    score[combinations.full] = -math.inf
    hard = torch.zeros(len(combinations), dtype=torch.bool)
    hard[score.argsort(descending=True, stable=True)[:count]] = True
    return hard & score.isfinite()
