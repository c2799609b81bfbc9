"""DMRNet with its default settings, trained for seconds, on data whose best possible answer is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dmr import training
from dmr.analysis.statistics import shapley
from dmr.combinations import all_combinations
from dmr.data.planted import PlantedSettings, planted
from dmr.data.scenes import ScenesSettings, scenes
from dmr.encoders import default_encoder
from dmr.methods.dmrnet import DMRNetSettings
from dmr.settings import SamplingSettings, TrainSettings
from dmr.training import RunSettings, fit

pytestmark = pytest.mark.slow


class BestKept:
    """Keeps the network of the best epoch."""

    def load(self):
        return None

    def save(self, state, is_best):
        if is_best:
            self.network = {name: value.clone() for name, value in state["network"].items()}

    def report(self, report):
        pass


def trained(dataset, select: str, encoder: dict[str, int], **train) -> training.TestReport:
    settings = RunSettings(
        method=DMRNetSettings(),
        encoders={m.name: type(default_encoder(m, dataset.task))(**encoder) for m in dataset.modalities},
        sampling=SamplingSettings(),
        train=TrainSettings(schedule="cosine", weight_decay=1e-2, epochs=16, **train),
        fusion="concat",
        select=select,
        select_mode="max",
        deployment=None,
        seed=1,
    )
    kept = BestKept()
    fit(dataset, settings, torch.device("cpu"), kept)
    return training.test(dataset, settings, torch.device("cpu"), kept.network)


@pytest.mark.parametrize(("modalities", "largest_gap"), [(3, 0.02), pytest.param(4, 0.025, marks=pytest.mark.long)])
def test_planted_data(modalities: int, largest_gap: float) -> None:
    dataset = planted(PlantedSettings(modalities=modalities, train=10_000, test=20_000))
    combinations = all_combinations(dataset.modality_names)
    best = np.array([dataset.description["best_accuracy"][name][0] for name in combinations.names])
    found = trained(dataset, "val/accuracy_mean", {"width": 64}, batch_size=128, learning_rate=2e-3)
    reached = np.array(found.values["accuracy"])
    signal = np.array([name != "noise" for name in combinations.names])
    assert (best - reached)[signal].mean() < largest_gap
    interval = 3.0 * np.sqrt(best * (1.0 - best) / 20_000)
    assert (reached < best + interval).all()
    assert abs(shapley(reached, combinations, 1.0 / dataset.num_classes)["noise"]) < 0.01


def test_scenes() -> None:
    dataset = scenes(ScenesSettings(train=300))
    found = trained(dataset, "val/miou_mean", {"width": 8}, batch_size=10, learning_rate=5e-3)
    names = all_combinations(dataset.modality_names).names
    box, ball = (dict(zip(names, found.values[f"iou_{name}"], strict=True)) for name in ("box", "ball"))
    assert box["rgb"] < 0.05
    assert box["depth"] > 0.7
    assert box["rgb-depth"] > 0.7
    assert ball["depth"] < 0.05
    assert ball["rgb"] > 0.7
    assert ball["rgb-depth"] > 0.7
