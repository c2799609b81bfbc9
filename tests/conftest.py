"""What all tests share: two global seeds, one thread, and the public data sets' original layouts."""

from __future__ import annotations

import random
import runpy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
import torch

from dmr.networks.convolutions import sound_convolutions

hypothesis.settings.register_profile("dmr", deadline=None)  # a busy machine is no failure
hypothesis.settings.load_profile("dmr")

LONGEST = {"test_readme.py", "test_resume.py", "test_run.py", "test_workers.py"}


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    torch.set_num_threads(1)
    with sound_convolutions(torch.device("cpu")):  # tests also take gradients without `fit`
        yield


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


@pytest.fixture(scope="session")
def write_release() -> Callable[[str, Path], Path]:
    """Write a tiny release of a public data set: see releases.py."""
    write: Callable[[str, Path], Path] = runpy.run_path(str(Path(__file__).with_name("releases.py")))["write_release"]
    return write


@pytest.fixture(scope="session")
def read_page() -> Callable[[str], Any]:
    """Parse a report: see pages.py."""
    read: Callable[[str], Any] = runpy.run_path(str(Path(__file__).with_name("pages.py")))["Page"]
    return read


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first: a file's tests run in one process, which sets up what they share once."""
    items.sort(key=lambda item: item.path.name not in LONGEST)
