"""The evaluation of a finished run on its test split, which nothing else reads.

Letters: C combinations, N test samples.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from dmr.combinations import evaluated_combinations
from dmr.data.augmentation import centre_crop
from dmr.data.batches import Batches
from dmr.data.dataset import MultimodalDataset
from dmr.evaluation import evaluate
from dmr.networks.network import Network
from dmr.runs.run_settings import RunSettings


class TestReport(NamedTuple):
    """What the test split says of a finished run.

    Attributes:
        metrics: `test/accuracy_mean`, ...
        values: (C,) by metric, in the order of the evaluated combinations.
        scores: (C, N) of each test sample, higher is better (see `dmr.evaluation.Evaluation`).
    """

    metrics: dict[str, float]
    values: dict[str, list[float]]
    scores: npt.NDArray[np.float32]


def test(
    dataset: MultimodalDataset, settings: RunSettings, device: torch.device, network_state: Mapping[str, Any]
) -> TestReport:
    """Evaluate the chosen checkpoint's network on `test`.

    Raises:
        KeyError: the data set has no test split.
    """
    design = settings.design(dataset)
    network = Network.restored(design, network_state).to(device)
    dataset = centre_crop(dataset, settings.augment)
    combinations = evaluated_combinations(dataset.modality_names)
    with design.autocast(device):
        found = evaluate(network, dataset, Batches(dataset.splits["test"], device), combinations)
    summaries = settings.summaries(found.values, combinations) | found.diagnostics
    return TestReport(
        {f"test/{name}": value for name, value in summaries.items()},
        {name: [float(v) for v in value] for name, value in found.values.items()},
        found.scores,
    )
