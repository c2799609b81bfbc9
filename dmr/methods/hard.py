"""Which combinations are hard.

Letters: C combinations, V hard combinations.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dmr.combinations import Combinations


def largest(score: Tensor, seen: Tensor, combinations: Combinations, count: int | None) -> Tensor:
    """(C,) bool: the V = `count` combinations with the largest score (C,) among those `seen`, (C,) bool.

    The full one is never hard. None takes half of those that are not full.
    """
    candidates = len(combinations) - 1
    count = candidates // 2 if count is None else min(count, candidates)
    score = torch.where(seen, score.double(), -math.inf)
    score[combinations.full] = -math.inf
    hard = torch.zeros(len(combinations), dtype=torch.bool)
    hard[score.argsort(descending=True, stable=True)[:count]] = True
    return hard & score.isfinite()
