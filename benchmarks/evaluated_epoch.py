"""One side of `evaluation.py --against`: evaluates an untrained network as a trial does after an epoch, whenever it is
asked by a line on standard input, `[case, chosen]`, and answers with a line: processor seconds,
and the metrics.

It uses what every commit's `dmr` has.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import replace
from functools import cache

import numpy as np
import torch
from common import CLASSES, image_settings, images

from dmr.data.dataset import Modality, MultimodalDataset, Split
from dmr.encoders.mlp import MLPSettings
from dmr.training import EpochReport, Run, RunSettings

CASES = {"6 vectors": (6, 512), "3 images": (3, 512), "6 images": (6, 512)}  # modalities, samples of val
WIDTH = 16


def vectors(modalities: int, train: int, val: int) -> MultimodalDataset:
    """Noise: M vectors."""
    draw = np.random.default_rng(0)
    described = tuple(Modality(f"sensor{m}", "vector", (WIDTH,)) for m in range(modalities))
    splits = {
        name: Split(
            {m.name: draw.standard_normal((count, WIDTH)).astype(np.float32) for m in described},
            draw.integers(0, CLASSES, count),
        )
        for name, count in {"train": train, "val": val}.items()
    }
    return MultimodalDataset("vectors", "classification", tuple(map(str, range(CLASSES))), described, splits)


@cache
def run_of(case: str) -> Run:
    """A run of dmrnet on a case's data, with concatenated features."""
    modalities, samples = CASES[case]
    make = vectors if "vectors" in case else images
    dataset = make(modalities, train=128, val=samples)
    settings: RunSettings = image_settings(dataset, "dmrnet")
    if make is vectors:
        settings = replace(settings, encoders={name: MLPSettings() for name in dataset.modality_names})
    torch.manual_seed(0)
    return Run(dataset, settings, torch.device("cpu"))


def main() -> None:
    torch.set_num_threads(1)
    for line in sys.stdin:
        case, chosen = json.loads(line)
        run = run_of(case)
        best = {run.settings.select: 2.0}  # of an accuracy: no epoch is better
        before = None if chosen else EpochReport(0, {}, 0, best, {})
        started = time.process_time()
        with torch.no_grad():
            report = run.evaluate_epoch(1, {}, before)
        seconds = time.process_time() - started
        metrics = report.best_metrics if chosen else report.metrics
        print(json.dumps({"seconds": seconds, "metrics": metrics}), flush=True)


if __name__ == "__main__":
    main()
