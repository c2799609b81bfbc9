"""The value of a metric without any modality, v(∅) of Shapley values: always answering one class."""

from __future__ import annotations

import itertools

import numpy as np
import torch

from dmr.data.dataset import MultimodalDataset
from dmr.metrics import make_tally


def value_without_modalities(dataset: MultimodalDataset, split: str, metric: str) -> float | None:
    """A metric on the samples of a split that have all modalities, the only ones on which combinations compare, where
    every sample (or pixel) is given the class that is most frequent in train; None where there is no such sample.
    """
    complete = [bool(row.all()) for row in dataset.splits[split].has()]
    if not any(complete):
        return None
    counts = np.zeros(dataset.num_classes, dtype=np.int64)
    for label in dataset.splits["train"].each_target():
        kept = label if dataset.ignore_index is None else label[label != dataset.ignore_index]
        counts += np.bincount(np.ravel(kept), minlength=dataset.num_classes)
    answer = torch.nn.functional.one_hot(torch.tensor(int(counts.argmax())), dataset.num_classes).float()
    tally = make_tally(dataset.task, dataset.class_names, dataset.ignore_index)
    for label in itertools.compress(dataset.splits[split].each_target(), complete):
        labels = torch.from_numpy(np.array(label, dtype=np.int64)[None])
        tally.add(answer.expand(1, *labels.shape, -1), labels)
    return float(tally.values()[metric][0])
