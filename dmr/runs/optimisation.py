"""The optimiser of a run: its learning rate at every step, and steps that leave out what is not finite."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from dmr.distributed.ranks import Ranks
from dmr.networks.network import Network
from dmr.settings import TrainSettings

OPTIMIZERS = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam, "sgd": torch.optim.SGD}


class Optimisation:
    """Takes the steps of a run; its state is that of the torch optimiser in `optimizer`."""

    def __init__(self, network: Network, settings: TrainSettings, ranks: Ranks) -> None:
        self.network = network
        self.settings = settings
        self.ranks = ranks
        self.optimizer = make_optimizer(network, settings)

    def set_learning_rate(self, progress: float) -> None:
        """`progress` in [0, 1) of the whole run."""
        factor = {
            "constant": 1.0,
            "linear": 1.0 - progress,
            "cosine": 0.5 * (1.0 + math.cos(math.pi * progress)),
        }[self.settings.schedule]
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.learning_rate * factor

    def step(self, loss: Tensor) -> Tensor:
        """Backward, clip, step. Returns 1.0 where the step was not finite and, on the device, was left out."""
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        gradients = [p.grad for p in self.network.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        if self.settings.clip_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(self.network.parameters(), self.settings.clip_norm, norm)
        unusable = self.ranks.largest(1.0 - (loss.detach().isfinite() & norm.isfinite()).float())
        self.optimizer.found_inf = unusable  # fused optimisers skip the step on the device where this is 1
        self.optimizer.step()
        return unusable


def make_optimizer(network: Network, settings: TrainSettings) -> Any:
    """The optimiser, whose step is left out on the device where its `found_inf` is 1."""
    kind, parameters = OPTIMIZERS[settings.optimizer], list(network.parameters())
    own = {"momentum": 0.9} if settings.optimizer == "sgd" else {}
    made = kind(parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True, **own)
    if own:  # torch's fused step fails where a parameter has its first gradient later than others
        for parameter in parameters:
            made.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return made
