"""What all tests share: two global seeds, and one thread."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def under_two_global_seeds() -> Callable[[Callable[[], Any]], tuple[Any, Any]]:
    def run(function: Callable[[], Any]) -> tuple[Any, Any]:
        results = []
        for seed in (1, 2):
            torch.manual_seed(seed)
            np.random.seed(seed)
            random.seed(seed)
            results.append(function())
        return results[0], results[1]

    return run
