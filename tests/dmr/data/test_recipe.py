"""Data drawn again with another seed."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dmr.data import DataRecipe, open_dataset
from dmr.data.dataset import MultimodalDataset
from dmr.data.missing import take_away

SMALL = {"train": 40, "val": 20, "test": 20}


def same(one: MultimodalDataset, other: MultimodalDataset, split: str) -> bool:
    first, second = one.splits[split], other.splits[split]
    rows = np.arange(len(first))
    inputs = zip(first.take(rows).values(), second.take(rows).values(), strict=True)
    alike = np.array_equal(first.targets(), second.targets()) and np.array_equal(first.has(), second.has())
    return alike and all(np.array_equal(a, b) for a, b in inputs)


@pytest.mark.parametrize(("name", "options"), [("digits", {"train": 40}), ("planted", SMALL), ("scenes", SMALL)])
def test_a_seed_of_the_options_moves_with_that_of_the_study(name: str, options: dict[str, Any]) -> None:
    recipe = DataRecipe(name, options | {"seed": 5}, {"val": 0.5}, 10)
    expected = take_away(open_dataset(name, options | {"seed": 7}, 12), {"val": 0.5}, 12)
    drawn, own = recipe.draw(12), recipe.draw(10)
    for split in ("train", "val", "test"):
        assert same(drawn, expected, split)
        assert not same(drawn, own, split)
    assert same(own, open_dataset(name, options | {"seed": 5}, 0), "test")
    assert recipe.draws(own)


def test_of_a_folder_only_what_it_leaves_open_is_drawn(
    make_dataset: Callable[..., MultimodalDataset], write_arrays: Callable[..., Path]
) -> None:
    folder = write_arrays(make_dataset(2, train=60))
    recipe = DataRecipe("arrays", {"path": str(folder)}, {}, 0)
    assert not recipe.draws(recipe.draw(0))
    assert same(recipe.draw(0), recipe.draw(1), "train")
    shutil.rmtree(folder / "val")
    assert recipe.draws(recipe.draw(0))
    assert not same(recipe.draw(0), recipe.draw(1), "val")
