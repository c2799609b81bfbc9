"""Whether a study can be trained at all: a batch through the network of each block, before any trial is started."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch

from dmr.studies.errors import StudyError
from dmr.studies.study_file.plan import StudyPlan
from dmr.studies.workers.failures import one_line
from dmr.training import try_step

SAMPLES = 16  # at most: a batch that is meant for a GPU may be too large for this machine


def try_batches(plan: StudyPlan) -> Iterator[str]:
    """Train one batch, on the CPU, with the file's defaults in each block of the search; a line per block.

    Raises:
        StudyError: a line per block that fails.
    """
    mistakes = []
    for block in plan.blocks:
        where = plan.study.name if block.label is None else f"{plan.study.name}: block {block.label}"
        settings = plan.run_settings(block.whole({}), plan.study.seed)
        train = replace(settings.train, batch_size=min(settings.train.batch_size, SAMPLES), compile=False)
        try:
            loss = try_step(plan.dataset, replace(settings, train=train), torch.device("cpu"))
        except Exception as error:  # a method or encoder of somebody else's raises anything
            mistakes.append(f"{where}: a batch cannot be trained: {one_line(error)}")
        else:
            yield f"{where}: a batch was trained on the CPU: loss {loss:.4g}"
    if mistakes:
        raise StudyError(*mistakes)
