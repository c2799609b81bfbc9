"""Which combination each training sample is seen with: a strategy is a probability for each combination.

Letters: M modalities, C combinations, B samples of a batch, K combinations per sample, U different sets of modalities.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dmr.combinations import Combinations
from dmr.data.transfer import to_device
from dmr.settings import SamplingSettings


def combination_probabilities(
    combinations: Combinations, settings: SamplingSettings, difficulty: Tensor | None = None
) -> Tensor:
    """(C,) float64, the probability with which each combination is drawn; sums to 1.

    uniform: 1/C. bernoulli: every modality kept with `keep_prob`, independently, given that one is kept.
    by_size: the number of modalities uniform over 1..M, then a combination of that size, uniform.
    full_biased: the full combination with `full_prob`, each other one with an equal share of the rest.
    hardness: `floor`/C + (1 − `floor`)·softmax(difficulty / `temperature`); uniform until a difficulty is known.

    Args:
        combinations: all non-empty combinations of the modalities.
        difficulty: (C,) mean training loss of each combination, NaN where it was not seen yet.

    Raises:
        ValueError: `difficulty` has another shape.
    """
    count = len(combinations)
    sizes = torch.from_numpy(combinations.sizes).to(torch.float64)
    total = float(sizes.max())
    if settings.strategy == "bernoulli":
        keep = settings.keep_prob
        weights = torch.pow(torch.tensor(keep, dtype=torch.float64), sizes)
        weights = weights * torch.pow(torch.tensor(1.0 - keep, dtype=torch.float64), total - sizes)
    elif settings.strategy == "by_size":
        of_this_size = torch.from_numpy(np.bincount(combinations.sizes)[combinations.sizes])
        weights = 1.0 / of_this_size.to(torch.float64)
    elif settings.strategy == "full_biased":
        weights = torch.full((count,), (1.0 - settings.full_prob) / (count - 1), dtype=torch.float64)
        weights[combinations.full] = settings.full_prob
    elif settings.strategy == "hardness" and difficulty is not None and not bool(difficulty.isnan().all()):
        if difficulty.shape != (count,):
            raise ValueError(f"difficulty has shape {tuple(difficulty.shape)}, there are {count} combinations")
        known = difficulty.to(torch.float64)
        known = torch.where(known.isnan(), known.nanmean(), known)
        weights = settings.floor / count + (1.0 - settings.floor) * torch.softmax(known / settings.temperature, 0)
    else:
        weights = torch.ones(count, dtype=torch.float64)
    return weights / weights.sum()


def within(probabilities: Tensor, combinations: Combinations, patterns: npt.NDArray[np.bool_]) -> Tensor:
    """(U, C): `probabilities` (C,) restricted to the combinations within each of the sets of modalities `patterns`
    (U, M), which samples have; where that leaves none, the whole pattern.
    """
    lacking = torch.from_numpy((~patterns).astype(np.float32) @ combinations.masks.T.astype(np.float32))
    fits = lacking == 0
    whole = fits & torch.from_numpy(combinations.sizes == patterns.sum(axis=1)[:, None])
    weights = torch.where(fits, probabilities, 0.0)
    weights = torch.where(weights.sum(1, keepdim=True) > 0, weights, whole.to(weights.dtype))
    return weights / weights.sum(1, keepdim=True)


class Presence:
    """Which modalities the samples of a split have, and so which combinations can be drawn for them."""

    def __init__(self, has: npt.NDArray[np.bool_] | None) -> None:
        """`has` (N, M); None where every sample has all modalities."""
        self.has = None if has is None else torch.from_numpy(has)
        if has is not None:
            self.patterns, which = np.unique(has, axis=0, return_inverse=True)
            self.pattern_of = torch.from_numpy(which.reshape(-1))

    def has_at(self, positions: Tensor) -> Tensor | None:
        """(B, M) of the samples at `positions` (B,)."""
        return None if self.has is None else self.has[positions]

    def within(self, probabilities: Tensor, combinations: Combinations) -> Tensor:
        """`probabilities` (C,) for all, or restricted to each set of modalities that samples have, (U, C)."""
        return probabilities if self.has is None else within(probabilities, combinations, self.patterns)

    def rows_at(self, probabilities: Tensor, positions: Tensor) -> Tensor:
        """From what `within` gave, the probabilities of the samples at `positions` (B,): (C,) for all, or (B, C)."""
        return probabilities if self.has is None else probabilities[self.pattern_of[positions]]


def available_in(masks: Tensor, has: Tensor) -> Tensor:
    """(C, B): whether a sample has all modalities of a combination, from `masks` (C, M) and `has` (B, M)."""
    return (~masks[:, None] | has[None]).all(-1)


def rows_by_modality(needed: Tensor, device: torch.device) -> tuple[Tensor, ...]:
    """The positions of the samples that need each modality, on `device`, from `needed` (B, M), bool on the CPU."""
    return torch.split(to_device(needed.T.nonzero()[:, 1], device), needed.sum(0).tolist())


def draw_combinations(probabilities: Tensor, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Indices of combinations, int64 of `shape`, each drawn independently: one vectorised call for a whole batch.

    Inverts the cumulative distribution, on the CPU, so that a training step on a GPU need not wait for it.

    Args:
        probabilities: (C,) for all, or (B, C) for each sample of a `shape` (K, B).
    """
    cumulative = probabilities.cumsum(-1)
    uniform = torch.rand(shape, generator=generator, dtype=torch.float64) * cumulative[..., -1]
    across = uniform.T.contiguous() if cumulative.ndim > 1 else uniform
    drawn = torch.searchsorted(cumulative, across, right=True).clamp_(max=probabilities.shape[-1] - 1)
    return drawn.T.contiguous() if cumulative.ndim > 1 else drawn
