"""Evaluation of all 15 combinations of 4 modalities: what it saves to encode each modality once.

`dmr.evaluation.evaluate` (encodes each modality once, then fuses once a combination) against one pass a combination
that encodes every modality and multiplies the features of absent ones by zero, followed by the same metrics.
Convolutional encoders on 32×32 images. Before timing, both have to give the same metrics.

    .venv/bin/python benchmarks/evaluation.py
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from common import environment, image_settings, images, interleaved, milliseconds, ratio, steady, table

from dmr.combinations import Combinations, all_combinations
from dmr.data.batches import Batches
from dmr.data.dataset import MultimodalDataset
from dmr.evaluation import EVALUATION_BATCH, evaluate
from dmr.methods.base import Features
from dmr.metrics import Values, score
from dmr.networks.network import Network
from dmr.training import build_network

METHODS_TIMED = ("dmrnet", "dropout", "hemis", "shaspec", "simmlm", "late_fusion_transformer")
MODALITIES = 4
TARGET = 8


@torch.no_grad()
def one_pass_a_combination(
    network: Network, dataset: MultimodalDataset, batches: Batches, combinations: Combinations
) -> Values:
    """Every metric (C,) as a loop around an ordinary evaluation gives it."""
    network.eval()
    logits, labels = [], torch.empty(0)
    for mask in torch.from_numpy(combinations.masks):
        predicted, targets = [], []
        for positions in torch.split(torch.arange(len(batches)), EVALUATION_BATCH):
            inputs, target = batches.take(positions)
            encoded = network.encode(inputs)
            features = Features([present * f for present, f in zip(mask.float(), encoded.contexts, strict=True)], [])
            predicted.append(network.method.predict(features, mask.expand(1, len(target), -1)).logits)
            targets.append(target)
        logits.append(torch.cat(predicted, dim=1))
        labels = torch.cat(targets)
    return score(torch.cat(logits), labels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=20)
    parser.add_argument("--samples", type=int, default=256)
    given = parser.parse_args()
    steady()
    print(environment(torch.get_num_threads()), flush=True)
    print(
        f"Medians of {given.repetitions} evaluations each, in turn, of {given.samples} samples; in brackets the middle"
    )
    print("half of the ratios of neighbours.\n", flush=True)
    dataset = images(MODALITIES, train=128, val=given.samples)
    combinations = all_combinations(dataset.modality_names)
    rows = []
    for method in METHODS_TIMED:
        torch.manual_seed(0)
        network = build_network(dataset, image_settings(dataset, method))
        arguments = (network, dataset, Batches(dataset.splits["val"], torch.device("cpu")), combinations)
        ours, theirs = evaluate(*arguments).values, one_pass_a_combination(*arguments)
        for name in ours:
            np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-4, atol=1e-5, err_msg=name)
        fast, slow = interleaved(
            lambda _, given=arguments: evaluate(*given),
            lambda _, given=arguments: one_pass_a_combination(*given),
            given.repetitions,
            warm_up=1,
        )
        count = len(combinations)
        rows.append((method, MODALITIES, count, milliseconds(slow), milliseconds(fast), ratio(fast, slow), TARGET))
    head = ("method", "M", "combinations", "a pass each, ms", "encoded once, ms", "times faster", "target")
    print(table(head, rows))


if __name__ == "__main__":
    main()
