"""K networks that differ in what a search turns, trained as one batch by `torch.func`, against one after the other and
against processes that share the GPU.

All K see the same samples, combinations and noise, as the trials of a study do; `kl_weight`, `hard_weight`,
`noise_scale` and `prior_std` differ. The gradients of both ways have to agree.

Letters: K networks, B samples of a batch.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from common import images, noise, run_settings, steady, wait
from gpu_parts.correctness import cudnn
from torch import Tensor, nn
from torch.func import functional_call, grad, stack_module_state, vmap

from dmr.combinations import all_combinations
from dmr.data.batches import Batches
from dmr.data.dataset import MultimodalDataset
from dmr.distributed.ranks import ALONE
from dmr.methods.dmrnet import DMRNetSettings
from dmr.networks.network import Network
from dmr.runs.optimisation import Optimisation
from dmr.sampling import combination_probabilities, draw_combinations
from dmr.seeds import generator
from dmr.settings import SamplingSettings
from dmr.training import RunSettings, build_network

TURNED = {"kl_weight": (1e-4, 1e-2), "hard_weight": (0.0, 1.0), "noise_scale": (0.5, 1.5), "prior_std": (0.3, 3.0)}
PATIENCE = 180  # seconds for the processes' training, which never ends where one of them dies
DATA: dict[str, Callable[[], MultimodalDataset]] = {
    "mlp": lambda: noise("vector", [(64,)] * 3, train=1024, val=8),
    "cnn": lambda: images(3, train=1024, val=8),
}
Step = tuple[dict[str, Tensor], Tensor, Tensor, torch.Generator]  # inputs, labels, combination, noise


class StepLoss(nn.Module):
    """The loss of a training step of a network whose method has the values `turned`."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, turned: dict[str, Any], step: Step) -> Tensor:
        self.network.method.settings = replace(self.network.method.settings, **turned)
        return self.network.losses(*step).total


class Job(NamedTuple):
    """Networks that are trained in one process.

    Attributes:
        networks: how many they are; of `of` in all processes they are those from number `first` on.
    """

    encoder: str
    networks: int
    of: int
    batch: int
    device: str
    steps: int
    first: int = 0


class Trials:
    """The networks of a job, of which each takes its own step, or all take one."""

    def __init__(self, job: Job) -> None:
        dataset = DATA[job.encoder]()
        settings = run_settings(dataset, DMRNetSettings())
        self.job = job
        self.device = torch.device(job.device)
        self.batches = Batches(dataset.splits["train"], self.device)
        self.probabilities = combination_probabilities(all_combinations(dataset.modality_names), SamplingSettings())
        numbers = range(job.first, job.first + job.networks)
        self.losses = [self.make(dataset, settings, number) for number in numbers]
        self.turned = {
            name: torch.linspace(low, high, job.of, device=self.device)[job.first : job.first + job.networks]
            for name, (low, high) in TURNED.items()
        }
        self.values = [
            dict(zip(TURNED, row, strict=True)) for row in zip(*map(Tensor.tolist, self.turned.values()), strict=True)
        ]
        train = settings.train
        self.optimisations = [Optimisation(loss.network, train, ALONE) for loss in self.losses]
        self.parameters, self.buffers = stack_module_state(self.losses)  # copies, (K, ...) each
        self.optimizer = torch.optim.AdamW(
            self.parameters.values(), lr=train.learning_rate, weight_decay=train.weight_decay, fused=True
        )
        self.skeleton = self.make(dataset, settings, 0)

    def make(self, dataset: MultimodalDataset, settings: RunSettings, number: int) -> StepLoss:
        torch.manual_seed(number)
        network = build_network(dataset, settings).to(self.device)
        network.method.hard[: len(network.method.hard) // 2] = True
        return StepLoss(network)

    def step(self, number: int) -> Step:
        positions = torch.randint(len(self.batches), (self.job.batch,), generator=generator("cpu", 0, "order", number))
        draws = generator("cpu", 0, "combinations", number)
        combination = draw_combinations(self.probabilities, (1, self.job.batch), draws)
        return *self.batches.take(positions), combination, generator(self.device, 0, "noise", number)

    def one_after_the_other(self, number: int) -> None:
        for loss, turned, optimisation in zip(self.losses, self.values, self.optimisations, strict=True):
            optimisation.step(loss(turned, self.step(number)))

    def together(self, number: int) -> None:
        gradients = self.gradients(self.step(number))
        for name, parameter in self.parameters.items():
            parameter.grad = gradients[name]
        self.optimizer.step()

    def gradients(self, step: Step) -> dict[str, Tensor]:
        """(K, ...) each, of all networks at once."""

        def loss(parameters: dict[str, Tensor], buffers: dict[str, Tensor], turned: dict[str, Tensor]) -> Tensor:
            return functional_call(self.skeleton, (parameters, buffers), (turned, step))

        parameters = {name: parameter.detach() for name, parameter in self.parameters.items()}
        found: dict[str, Tensor] = vmap(grad(loss), randomness="same")(parameters, self.buffers, self.turned)
        return found

    def difference(self) -> float:
        """‖difference‖ / ‖gradient‖ between both ways, the largest of any network, before any step."""
        found = self.gradients(self.step(0))
        largest = 0.0
        for k, (loss, turned) in enumerate(zip(self.losses, self.values, strict=True)):
            loss(turned, self.step(0)).backward()
            pairs = [
                (p.grad.flatten(), found[n][k].flatten()) for n, p in loss.named_parameters() if p.grad is not None
            ]
            expected, got = (torch.cat(side) for side in zip(*pairs, strict=True))
            largest = max(largest, float((got - expected).norm() / expected.norm()))
        return largest

    def seconds(self, step: Callable[[int], object]) -> float:
        """Per step, after as many to warm up."""
        for timed in (False, True):
            wait(self.device)
            started = time.perf_counter()
            for number in range(self.job.steps):
                step(number + self.job.steps * timed)
            wait(self.device)
        return (time.perf_counter() - started) / self.job.steps


class Processes:
    """Processes that live for all measurements, since each imports torch and opens the GPU."""

    def __init__(self, count: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.count = count
        self.pool = context.Pool(count, _begin, (context.Barrier(count),))

    def seconds(self, job: Job) -> float:
        """Per step of all networks of a job, each process having its share of them."""
        share = job.networks // self.count
        shares = [job._replace(networks=share, first=share * p) for p in range(self.count)]
        spans = self.pool.map_async(_train, shares, chunksize=1).get(PATIENCE)
        return (max(end for _, end in spans) - min(start for start, _ in spans)) / job.steps

    def close(self) -> None:
        self.pool.terminate()
        self.pool.join()


def _begin(barrier: Any) -> None:
    global meeting  # where the processes of a pool wait for each other
    meeting = barrier
    steady()


def _train(job: Job) -> tuple[float, float]:
    """When training began and ended, on the clock that all processes share."""
    trials = Trials(job)
    trials.seconds(trials.one_after_the_other)
    meeting.wait()
    started = time.monotonic()
    for number in range(job.steps):
        trials.one_after_the_other(number)
    wait(trials.device)
    return started, time.monotonic()


def row(job: Job, processes: Processes) -> tuple[object, ...]:
    """A row of the table: milliseconds per step of all networks, how many times faster one batch is, and how far its
    gradients are from those of one network alone.
    """
    trials = Trials(job)
    with cudnn(allow_tf32=False):
        difference = trials.difference()
    alone, together = trials.seconds(trials.one_after_the_other), trials.seconds(trials.together)
    shared = processes.seconds(job) if job.networks >= processes.count else None
    return (
        job.encoder,
        job.networks,
        f"{1000 * alone:.1f}",
        "" if shared is None else f"{1000 * shared:.1f}",
        f"{1000 * together:.1f}",
        f"{alone / together:.1f}",
        "" if shared is None else f"{shared / together:.1f}",
        f"{difference:.0e}",
    )


HEAD = (
    "encoder",
    "K",
    "one after the other, ms",
    "processes, ms",
    "one batch, ms",
    "times faster",
    "than processes",
    "gradients differ by",
)
