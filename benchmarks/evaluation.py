"""Evaluation of all combinations: what it saves to encode each modality once, and to sum what is present.

An evaluation is that of an epoch: `dmr.evaluation.SplitEvaluation` and the metrics of every epoch. Three tables:

1. 4 modalities, against one pass per combination that encodes every modality and multiplies the features of absent ones
   by zero, followed by the same metrics. Before timing, both have to give the same metrics.
2. 6 modalities, 63 combinations, against encoding the split once.
3. With `--against COMMIT`: against that commit, each in a process with the environment that it gives a trial, in
   processor seconds; both have to give the same metrics.

    .venv/bin/python benchmarks/evaluation.py [--against COMMIT]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import environment, image_settings, images, interleaved, milliseconds, ratio, steady, table
from evaluated_epoch import CASES

from dmr.combinations import Combinations, all_combinations
from dmr.data.batches import Batches
from dmr.data.dataset import MultimodalDataset
from dmr.distributed.ranks import ALONE
from dmr.evaluation import EVALUATION_BATCH, SplitEvaluation, evaluation_parts
from dmr.methods.base import Features
from dmr.metrics import METRICS, Values, score
from dmr.networks.network import Network
from dmr.training import build_network

METHODS_TIMED = ("dmrnet", "dropout", "hemis", "shaspec", "simmlm", "late_fusion_transformer")
MODALITIES = 4
TARGET = 8
MOST_PASSES = 1.3
TARGET_AGAINST = 2.5
EACH_EPOCH = {name for name, metric in METRICS.items() if metric.each_epoch}
ROOT = Path(__file__).parents[1]


def evaluate(network: Network, dataset: MultimodalDataset, batches: Batches, combinations: Combinations) -> Values:
    """The metrics of every epoch, each (C,)."""
    return SplitEvaluation(network, dataset, batches, combinations).values(EACH_EPOCH)


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


@torch.no_grad()
def encode(network: Network, dataset: MultimodalDataset, batches: Batches, combinations: Combinations) -> None:
    """One pass of the encoders over the split, in the batches of an evaluation."""
    network.eval()
    for part in evaluation_parts(dataset, batches, len(combinations), ALONE):
        network.encode(batches.take(torch.arange(part.start, part.stop))[0])


def arguments_of(dataset: MultimodalDataset, method: str) -> tuple[Network, MultimodalDataset, Batches, Combinations]:
    """Those of `evaluate`, with a fresh network of a method."""
    torch.manual_seed(0)
    network = build_network(dataset, image_settings(dataset, method))
    batches = Batches(dataset.splits["val"], torch.device("cpu"))
    return network, dataset, batches, all_combinations(dataset.modality_names)


def four_modalities(repetitions: int, samples: int) -> str:
    dataset, rows = images(MODALITIES, train=128, val=samples), []
    for method in METHODS_TIMED:
        arguments = arguments_of(dataset, method)
        ours, theirs = evaluate(*arguments), one_pass_a_combination(*arguments)
        for name in ours:
            np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-4, atol=1e-5, err_msg=name)
        fast, slow = interleaved(
            lambda _, given=arguments: evaluate(*given),
            lambda _, given=arguments: one_pass_a_combination(*given),
            repetitions,
            warm_up=1,
        )
        rows.append((method, milliseconds(slow), milliseconds(fast), ratio(fast, slow), TARGET))
    return table(("method", "a pass each, ms", "encoded once, ms", "times faster", "target"), rows)


def six_modalities(repetitions: int, samples: int) -> str:
    dataset, rows = images(6, train=128, val=samples), []
    for method in METHODS_TIMED:
        arguments = arguments_of(dataset, method)
        once, all_of_them = interleaved(
            lambda _, given=arguments: encode(*given),
            lambda _, given=arguments: evaluate(*given),
            repetitions,
            warm_up=1,
        )
        target = f"≤ {MOST_PASSES}" if arguments[0].method.summed() is not None else ""
        rows.append((method, milliseconds(once), milliseconds(all_of_them), ratio(once, all_of_them), target))
    return table(("method", "encoders once, ms", "63 combinations, ms", "encoder passes", "target"), rows)


class Evaluator:
    """A process that evaluates with the package of a checkout, in the environment that it gives its trials."""

    def __init__(self, checkout: Path) -> None:
        own = os.environ | {"PYTHONPATH": str(checkout)}
        asked = "import json; from dmr.studies.driver.run_study import ENGINE_SETTINGS as s; print(json.dumps(s))"
        told = subprocess.run(
            [sys.executable, "-c", asked], cwd=checkout, env=own, check=True, capture_output=True, encoding="utf-8"
        )
        self.settings = {name: v for name, v in json.loads(told.stdout).items() if name.startswith("MALLOC_")}
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("evaluated_epoch.py"))],
            env=own | self.settings,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            encoding="utf-8",
        )

    def ask(self, case: str, chosen: bool) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps([case, chosen]) + "\n")
        self.process.stdin.flush()
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        return answer

    def __enter__(self) -> Evaluator:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.communicate()


@contextmanager
def checkout_of(commit: str) -> Iterator[Path]:
    """That commit's files, in a temporary folder."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "checkout"
        subprocess.run(["git", "worktree", "add", "--quiet", "--detach", path, commit], cwd=ROOT, check=True)
        try:
            yield path
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", path], cwd=ROOT, check=True)


def against(commit: str, repetitions: int) -> str:
    rows = []
    with ExitStack() as stack:
        before = stack.enter_context(Evaluator(stack.enter_context(checkout_of(commit))))
        now = stack.enter_context(Evaluator(ROOT))
        for case in CASES:
            for chosen in (False, True):
                asked = [(one.ask(case, chosen), one.ask(case, chosen)) for one in (before, now)]  # warm-up
                theirs, ours = (answers[-1]["metrics"] for answers in asked)
                for name in ours:
                    np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-5, atol=1e-6, err_msg=name)
                seconds: tuple[list[float], list[float]] = ([], [])
                for repetition in range(repetitions):
                    for which in (0, 1) if repetition % 2 == 0 else (1, 0):
                        seconds[which].append((before, now)[which].ask(case, chosen)["seconds"])
                what = "the chosen one" if chosen else "each"
                target = "" if chosen else TARGET_AGAINST
                rows.append((case, what, *map(milliseconds, seconds), ratio(seconds[1], seconds[0]), target))
        environments = f"{before.settings} before, {now.settings} now"
    head = ("data", "epoch", f"{commit}, ms", "now, ms", "times faster", "target")
    return f"{table(head, rows)}\n\nIn processes with {environments}."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=20)
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--against", metavar="COMMIT", help="the third table alone")
    given = parser.parse_args()
    steady()
    print(environment(torch.get_num_threads()), flush=True)
    print(f"Medians of {given.repetitions} evaluations each, in turn; in brackets the middle half of the ratios of")
    print("neighbours.\n", flush=True)
    if given.against:
        print(against(given.against, given.repetitions))
        return
    print(
        f"4 modalities, {given.samples} samples:\n\n{four_modalities(given.repetitions, given.samples)}\n", flush=True
    )
    print(f"6 modalities, {given.samples} samples:\n\n{six_modalities(given.repetitions, given.samples)}")


if __name__ == "__main__":
    main()
