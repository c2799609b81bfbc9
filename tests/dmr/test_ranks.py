"""Several ranks train one network as one process would: on the same global batches, whatever a rank has of them."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from dmr.distributed.ranks import BatchShard, Ranks, alone

RANK = Path(__file__).with_name("rank.py")


class Trained(NamedTuple):
    """Outcomes by case: of one process, and of each rank."""

    one: dict[str, Any]
    ranks: list[dict[str, Any]]


@pytest.fixture(scope="module", params=[2, 3])
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    count, folder = request.param, tmp_path_factory.mktemp("ranks")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    processes = [
        subprocess.Popen(
            [sys.executable, RANK, str(rank), str(count), folder],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(count)
    ]
    try:
        one = runpy.run_path(str(RANK))["outcomes"](count)
        shown = [process.communicate(timeout=240)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0] * count, shown
    return Trained(one, [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(count)])


@pytest.mark.slow
def test_ranks_train_what_one_process_trains(trained: Trained) -> None:
    """After the last epoch; what differs is the order of summation."""
    assert trained.one
    for name, expected in trained.one.items():
        for found in (rank[name] for rank in trained.ranks):
            assert found["raised"] == expected["raised"], name
            assert len(found["reports"]) == len(expected["reports"]), name
            for one, other in zip(expected["reports"], found["reports"], strict=True):
                assert other["metrics"] == pytest.approx(one["metrics"], rel=1e-4, abs=1e-9), name
                for metric, values in one["best_values"]["val"].items():
                    np.testing.assert_allclose(other["best_values"]["val"][metric], values, 1e-4, 1e-9, err_msg=name)
        state = trained.ranks[0][name]["state"]
        if expected["state"] is not None:
            torch.testing.assert_close(state["network"], expected["state"]["network"], rtol=1e-3, atol=3e-4)
            one, other = expected["state"]["difficulty"], state["difficulty"]
            torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-6, equal_nan=True)


@pytest.mark.slow
def test_only_the_first_rank_saves(trained: Trained) -> None:
    saved = [{case["state"] is not None for case in rank.values() if not case["raised"]} for rank in trained.ranks]
    assert saved == [{True}, *[{False}] * (len(saved) - 1)]


def test_the_parts_of_a_batch_are_all_of_it_in_order() -> None:
    ranks = [Ranks(rank, 3) for rank in range(3)]
    batch = torch.arange(8)
    for count, sizes in ((8, [2, 3, 3]), (2, [0, 1, 1]), (1, [0, 0, 1])):
        parts = [rank.part(count) for rank in ranks]
        assert [part.own for part in parts] == sizes
        assert {part.whole for part in parts} == {count}
        assert torch.cat([part.cut(batch[:count]) for part in parts]).tolist() == list(range(count))
        assert sum(part.share for part in parts) == pytest.approx(1.0)


def test_random_numbers_belong_to_the_sample_and_not_to_the_rank() -> None:
    def drawn(part: BatchShard) -> torch.Tensor:
        return part.draw(torch.randn, (2, part.own, 4), 1, torch.Generator().manual_seed(5))

    parts = [drawn(Ranks(rank, 3).part(7)) for rank in range(3)]
    assert torch.equal(torch.cat(parts, dim=1), drawn(alone(7)))


def test_weighed_means_of_unequal_parts_are_the_mean_of_all() -> None:
    values = torch.tensor([1.0, 5.0, 2.0, 0.0, 7.0])
    parts = [Ranks(rank, 3).part(5) for rank in range(3)]
    means = [part.weighed(part.cut(values).mean()) for part in parts]
    assert torch.stack(means).mean().item() == pytest.approx(3.0)
    nothing = Ranks(0, 3).part(2)
    mean = torch.zeros(0, requires_grad=True).mean()
    assert nothing.weighed(mean).item() == 0.0
