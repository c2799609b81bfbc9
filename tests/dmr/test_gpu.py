"""What has to hold on a GPU, and that `benchmarks/gpu.py`, whose checks these are, runs where there is none."""

from __future__ import annotations

import copy
import importlib
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor

from dmr.data.batches import Batches
from dmr.data.dataset import MultimodalDataset
from dmr.distributed.ranks import BatchShard
from dmr.methods import METHODS

ROOT = Path(__file__).parents[2]
CPU, GPU = torch.device("cpu"), torch.device("cuda")
FLOAT32, BFLOAT16 = 2e-5, 3e-3  # of loss and weights; inputs changed in their last bit: 2e-6, bfloat16: up to 1e-3
VALUES = 1e-4  # of metrics in float32, less than one sample
SETS = ("digits", "gaps", "images", "scenes")
LACKING = ["ray", "optuna", "mlflow", "pandas", "matplotlib", "pydantic", "yaml"]  # where only torch is installed
Make = Callable[[str], MultimodalDataset]

on_gpu = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
every_method = pytest.mark.parametrize("method", METHODS)
every_set = pytest.mark.parametrize("name", SETS)


@pytest.fixture(scope="module")
def checks() -> Iterator[ModuleType]:
    """`benchmarks/gpu_parts/correctness.py`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "benchmarks")
        yield importlib.import_module("gpu_parts.correctness")


@pytest.fixture(scope="module")
def make(checks: ModuleType) -> Make:
    return cache(lambda name: checks.SETS[name]())


@pytest.fixture
def gpu(checks: ModuleType) -> Iterator[None]:
    """Convolutions in float32, as on a CPU."""
    with checks.cudnn(allow_tf32=False):
        yield


@pytest.mark.usefixtures("gpu")
class TestOnAGPU:
    """Every method on vectors, vectors with gaps, images and label maps."""

    pytestmark = on_gpu

    @every_set
    @every_method
    def test_an_epoch_is_that_of_a_cpu(self, method: str, name: str, checks: Any, make: Make) -> None:
        dataset = make(name)
        settings = checks.checked_settings(dataset, method, 1, **checks.SGD)
        found = checks.difference(dataset, settings, GPU)
        assert max(found.loss, found.weights) < FLOAT32
        assert found.values < VALUES

    @every_set
    @every_method
    def test_an_epoch_in_bfloat16_is_that_of_a_cpu(self, method: str, name: str, checks: Any, make: Make) -> None:
        dataset = make(name)
        settings = checks.checked_settings(dataset, method, 1, precision="bfloat16", **checks.SGD)
        found = checks.difference(dataset, settings, GPU)
        assert max(found.loss, found.weights) < BFLOAT16

    @every_method
    def test_it_learns_in_bfloat16(self, method: str, checks: Any, make: Make) -> None:
        dataset = make("digits")
        settings = checks.checked_settings(dataset, method, 3, precision="bfloat16")
        first, _, last = checks.trained(dataset, settings, GPU).losses("task")
        assert last < 0.9 * first

    @every_set
    @every_method
    def test_no_step_and_no_evaluated_batch_waits(self, method: str, name: str, checks: Any, make: Make) -> None:
        dataset = make(name)
        settings = checks.checked_settings(dataset, method, 3)
        assert checks.waits_of_steps(dataset, settings, GPU) == []
        assert checks.waits_of_evaluation(dataset, settings, GPU) == []

    @every_set
    @every_method
    def test_a_run_is_the_same_again_and_resumed(self, method: str, name: str, checks: Any, make: Make) -> None:
        dataset = make(name)
        found = checks.repeated(dataset, checks.checked_settings(dataset, method, 3), GPU)
        if name == "scenes":  # torch adds up the gradients of enlarged maps in any order
            for other in (found.again, found.resumed):
                assert other.losses()[-1] == pytest.approx(found.run.losses()[-1], rel=1e-3)
        else:
            assert found.differing() == ([], [])

    @every_set
    def test_splits_that_are_read_as_needed_do_not_wait(self, name: str, checks: Any, make: Make) -> None:
        dataset = make(name)
        settings = checks.checked_settings(dataset, "dmrnet", 2)
        with checks.streamed():
            assert checks.waits_of_steps(dataset, settings, GPU) == []
            assert checks.waits_of_evaluation(dataset, settings, GPU) == []

    @pytest.mark.parametrize("name", ["images", "scenes"])
    def test_augmentation_does_not_wait(self, name: str, checks: Any, make: Make) -> None:
        dataset = make(name)
        settings = checks.checked_settings(dataset, "dmrnet", 2)
        assert checks.waits_of_steps(dataset, checks.augmented(settings), GPU) == []


# --- without a GPU ----------------------------------------------------------------------------------------------------


def test_the_benchmark_runs_on_a_cpu(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(f"import sys\nsys.modules |= dict.fromkeys({LACKING})", encoding="utf-8")
    command = [sys.executable, ROOT / "benchmarks" / "gpu.py", "--device", "cpu", "--tiny"]
    parts = ["waits", "throughput", "equality", "again", "networks"]
    done = subprocess.run(
        [*command, "--only", *parts],
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stderr
    tables = {}
    for part in done.stdout.split("\n## ")[1:]:
        rows = [line.strip("| ").split(" | ") for line in part.splitlines() if line.startswith("|")]
        assert len({len(row) for row in rows}) == 1, part
        tables[part.split()[0]] = rows[2:]
    assert list(tables) == parts
    assert {cell for row in tables["waits"] for cell in row[1:]} == {"none"}
    assert {cell for row in tables["equality"] for cell in row[2:]} == {"0e+00"}
    assert {cell for row in tables["again"] for cell in row[1:3]} == {"0"}
    assert [row[0] for row in tables["throughput"][::2]] == ["mlp", "sequence", "cnn", "resnet18", "pyramid"]
    assert max(float(row[-1]) for row in tables["networks"]) < 1e-5


def test_what_waits_is_named_by_its_line(checks: Any, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """What torch warns of: once per batch, three epochs of 4 more steps, and once per epoch of training, which is no
    mistake.
    """
    take, start = Batches.take, METHODS["dropout"].start_epoch

    def waiting(batches: Batches, positions: Tensor) -> Any:
        warnings.warn("called a synchronizing CUDA operation", stacklevel=1)
        return take(batches, positions)

    def waiting_once(*given: Any) -> None:
        warnings.warn("called a synchronizing CUDA operation", stacklevel=1)
        start(*given)

    monkeypatch.setattr(Batches, "take", waiting)
    monkeypatch.setattr(METHODS["dropout"], "start_epoch", waiting_once)
    dataset = make("digits")
    settings = checks.checked_settings(dataset, "dropout", 3)
    (found,) = checks.waits_of_steps(dataset, settings, CPU)
    assert found.startswith("12 × `dmr/data/batches.py:")
    assert found.endswith("`yield from map(self.take, batches)`")
    (found,) = checks.waits_of_evaluation(dataset, settings, CPU)
    assert "`dmr/data/batches.py:" in found


@pytest.mark.parametrize("method", ["dmrnet", "simmlm"])
def test_a_difference_of_the_noise_is_larger_than_one_of_rounding(
    method: str, checks: Any, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset, drawn = make("digits"), BatchShard.draw
    settings = checks.checked_settings(dataset, method, 1, **checks.SGD)
    assert checks.difference(dataset, settings, CPU) == (0.0, 0.0, 0.0)

    def other(part: BatchShard, draw: Any, shape: Any, dim: int, generator: torch.Generator, **how: Any) -> Tensor:
        return drawn(part, draw, shape, dim, torch.Generator().manual_seed(1), **how)

    monkeypatch.setattr(checks, "noise_of_the_cpu", lambda: patch.object(BatchShard, "draw", other))
    found = checks.difference(dataset, settings, CPU)
    assert min(found.loss, found.weights) > 2 * FLOAT32


def test_a_state_differs_where_a_bit_does(checks: Any) -> None:
    state = {"network": {"a": torch.tensor([1.0, float("nan")]), "b": torch.ones(2)}, "report": {"epoch": [1, 2]}}
    assert checks.differing(state, copy.deepcopy(state)) == []
    other = copy.deepcopy(state)
    other["network"]["b"][1] += 1e-7
    other["report"]["epoch"][0] = 3
    assert checks.differing(state, other) == ["network.b", "report.epoch.0"]
