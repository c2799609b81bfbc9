"""Training step: what it saves to encode only the samples in which a modality is present.

One step as `dmr.training` does it (draw combinations, gather the batch, encode what is present, fuse, losses, backward,
optimiser, statistics by combination) against the same step on the same network that encodes every modality of every
sample and multiplies the features of absent ones by zero. Convolutional encoders on 32×32 images, batches of 64,
uniform sampling, methods that encode nothing else. Before timing, both have to give the same loss and the same
gradients.

    .venv/bin/python benchmarks/step.py
"""

from __future__ import annotations

import argparse

import torch
from common import environment, image_settings, images, interleaved, milliseconds, ratio, steady, table
from torch import Tensor

from dmr.data.dataset import MultimodalDataset
from dmr.methods.base import Features, MaskedBatch, StepLosses, add_by_combination
from dmr.sampling import combination_probabilities, draw_combinations
from dmr.seeds import generator
from dmr.training import Run, RunSettings

METHODS_TIMED = ("dmrnet", "dropout", "hemis", "shaspec", "simmlm", "late_fusion_transformer")
TARGETS = {2: 1.35, 3: 1.5}
TRAIN = 512


class Steps:
    """Steps of one run, done either way; a repetition's batch and combinations are the same for both."""

    def __init__(self, dataset: MultimodalDataset, settings: RunSettings, device: torch.device) -> None:
        torch.manual_seed(0)
        self.run = Run(dataset, settings, device)
        self.size = settings.train.batch_size
        self.run.network.train()
        self.run.network.method.start_epoch(0, self.run.drawn, generator("cpu", 0, "mining"))
        self.probabilities = combination_probabilities(self.run.drawn, self.run.settings.sampling)
        self.sums = torch.zeros((3, len(self.run.drawn)), dtype=torch.float64, device=device)

    def dmr(self, number: int) -> None:
        """A step that encodes what is present."""
        self.finish(self.forward_present(*self.draw(number)))

    def everything(self, number: int) -> None:
        """The same step that encodes everything."""
        self.finish(self.forward_everything(*self.draw(number)))

    def draw(self, number: int) -> tuple[Tensor, Tensor, torch.Generator]:
        positions = torch.randint(len(self.run.train), (self.size,), generator=generator("cpu", 0, "order", number))
        draws = generator("cpu", 0, "combinations", number)
        combination = draw_combinations(self.probabilities, (1, self.size), draws)
        return positions, combination, generator(self.run.device, 0, "noise", number)

    def forward_present(self, positions: Tensor, combination: Tensor, noise: torch.Generator) -> StepLosses:
        return self.run.forward(self.run.train.take(positions), combination, noise)

    def forward_everything(self, positions: Tensor, combination: Tensor, noise: torch.Generator) -> StepLosses:
        inputs, labels = self.run.train.take(positions)
        network = self.run.network
        masks = network.combinations[combination]
        needed = masks.any(0)
        masks, combination = (x.to(self.run.device, non_blocking=True) for x in (masks, combination))
        there = masks.any(0).float()  # (B, M)
        with self.run.design.autocast(self.run.device):
            encoded = network.encode(inputs)
            contexts = [there[:, m].reshape(-1, *[1] * (f.ndim - 1)) * f for m, f in enumerate(encoded.contexts)]
            features = Features(contexts, encoded.skips)
            return network.method.losses(MaskedBatch(features, masks, combination, labels, inputs, needed), noise)

    def finish(self, losses: StepLosses) -> None:
        self.run.optimisation.step(losses.total)
        add_by_combination(self.sums, losses)

    def check(self) -> None:
        """Both ways give the same loss and gradients, to the tolerance of float32.

        Raises:
            AssertionError: they do not.
        """
        found = []
        for forward in (self.forward_present, self.forward_everything):
            self.run.network.zero_grad()
            losses = forward(*self.draw(0))
            losses.total.backward()
            found.append([losses.total.detach(), losses.task, *[p.grad.clone() for p in self.run.network.parameters()]])
        torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=60)
    parser.add_argument("--page-faults", action="store_true", help="leave glibc's malloc as it is")
    given = parser.parse_args()
    repetitions = given.repetitions
    steady(keep_memory=not given.page_faults)
    print(environment(torch.get_num_threads()), flush=True)
    print(f"Medians of {repetitions} steps each, in turn; in brackets the middle half of the ratios of neighbours.\n")
    rows = []
    for modalities, target in TARGETS.items():
        most, dataset = _possible(modalities), images(modalities, train=TRAIN, val=64)
        for method in METHODS_TIMED:
            steps = Steps(dataset, image_settings(dataset, method), torch.device("cpu"))
            steps.check()
            ours, theirs = interleaved(steps.dmr, steps.everything, repetitions, warm_up=5)
            rows.append(
                (method, modalities, milliseconds(theirs), milliseconds(ours), ratio(ours, theirs), most, target)
            )
    print(
        table(("method", "M", "everything, ms", "present only, ms", "times faster", "possible", "target"), rows),
        flush=True,
    )


def _possible(modalities: int) -> str:
    """What uniform sampling allows: all encodings over those that are needed."""
    return f"{(2**modalities - 1) / 2 ** (modalities - 1):.2f}"


if __name__ == "__main__":
    main()
