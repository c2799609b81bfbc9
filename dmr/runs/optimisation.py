"""The optimiser of a run: its learning rate at every step, and steps that leave out what is not finite.

The kernels are those of torch's fused optimisers, without `torch.optim.Optimizer` around them: its first use loads
torch's compiler, seconds per process, and it is a sixth of each step of a small network.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dmr.distributed.ranks import Ranks
from dmr.networks.network import Network
from dmr.settings import TrainSettings


class UpdateRule(NamedTuple):
    """What an optimiser remembers of each parameter, by the names of torch's own, and its fused kernel.

    `update` takes lists of parameters, their gradients, each memory and the steps taken, this one included.
    """

    memories: tuple[str, ...]
    update: Callable[..., None]


def _adam(kernel: Callable[..., None], *given: list[Tensor], **how: Any) -> None:
    *lists, steps = given
    kernel(*lists, [], steps, **how, beta1=0.9, beta2=0.999, eps=1e-8, amsgrad=False, maximize=False)


def _sgd(*given: list[Tensor], **how: Any) -> None:
    *lists, _ = given
    torch._fused_sgd_(*lists, **how, momentum=0.9, dampening=0.0, nesterov=False, maximize=False, is_first_step=False)


OPTIMIZERS = {
    "adamw": UpdateRule(("exp_avg", "exp_avg_sq"), partial(_adam, torch._fused_adamw_)),
    "adam": UpdateRule(("exp_avg", "exp_avg_sq"), partial(_adam, torch._fused_adam_)),
    "sgd": UpdateRule(("momentum_buffer",), _sgd),
}


class Optimisation:
    """Takes the steps of a run. Parameters without a gradient are left as they are, as torch's optimisers do.

    Attributes:
        state: what is remembered, by name, of all parameters in one vector, which is written fast.
        encoder_norms: (M,) float64, for each of M modalities the sum over `steps` of the L2 norm of the gradient of its
            encoders, before it is clipped.
    """

    def __init__(self, network: Network, settings: TrainSettings, ranks: Ranks) -> None:
        self.settings = settings
        self.ranks = ranks
        self.rule = OPTIMIZERS[settings.optimizer]
        self.parameters = list(network.parameters())
        self.learning_rate = settings.learning_rate
        flat = torch.zeros(sum(p.numel() for p in self.parameters), device=self.parameters[0].device)
        steps = flat.new_zeros(len(self.parameters))
        self.state = {name: flat.clone() for name in self.rule.memories} | {"step": steps}
        self.memory = {name: _views(self.state[name], self.parameters) for name in self.rule.memories}
        self.memory["step"] = list(steps.unbind())
        own = {name: set(map(id, found)) for name, found in network.encoder_parameters().items()}
        belongs = [[float(id(p) in ids) for p in self.parameters] for ids in own.values()]
        self.modalities = tuple(own)
        self.in_encoder = torch.tensor(belongs, dtype=torch.float64, device=flat.device)  # (M, P) of P parameters
        self.no_gradient = flat.new_zeros(())
        self.encoder_norms, self.steps = self.in_encoder.new_zeros(len(own)), 0

    def set_learning_rate(self, progress: float) -> None:
        """`progress` in [0, 1) of the whole run."""
        factor = {
            "constant": 1.0,
            "linear": 1.0 - progress,
            "cosine": 0.5 * (1.0 + math.cos(math.pi * progress)),
        }[self.settings.schedule]
        self.learning_rate = self.settings.learning_rate * factor

    @torch.no_grad()
    def step(self, loss: Tensor) -> Tensor:
        """Backward, clip, step. Returns 1.0 where the step was not finite and, on the device, was left out."""
        for parameter in self.parameters:
            parameter.grad = None
        loss.backward()  # type: ignore[no-untyped-call]
        found = [parameter.grad for parameter in self.parameters]
        used = [i for i, gradient in enumerate(found) if gradient is not None]
        gradients = [gradient for gradient in found if gradient is not None]
        norms = self._norms(used, gradients)
        if self.settings.clip_norm is not None:
            norm = torch.linalg.vector_norm(norms)
            torch.nn.utils.clip_grads_with_norm_(self.parameters, self.settings.clip_norm, norm)
        unusable = self.ranks.largest(1.0 - (loss.detach() + norms.sum()).isfinite().float())
        if len(used) == len(self.parameters):
            self.state["step"] += 1.0 - unusable
        else:
            torch._foreach_add_([self.memory["step"][i] for i in used], [1.0 - unusable] * len(used))
        memory = [[values[i] for i in used] for values in self.memory.values()]
        self.rule.update(
            [self.parameters[i] for i in used],
            gradients,
            *memory,
            lr=self.learning_rate,
            weight_decay=self.settings.weight_decay,
            grad_scale=None,
            found_inf=unusable,
        )
        return unusable

    def _norms(self, used: list[int], gradients: list[Tensor]) -> Tensor:
        """(P,) L2 norm of the gradient of each parameter, those `used`, 0 of the others; added to `encoder_norms`."""
        each = [self.no_gradient] * len(self.parameters)
        for i, norm in zip(used, torch._foreach_norm(gradients), strict=True):
            each[i] = norm
        norms = torch.stack(each)
        self.encoder_norms += (self.in_encoder @ norms.double().square()).sqrt()
        self.steps += 1
        return norms

    def take_encoder_norms(self) -> dict[str, float]:
        """The norm of the gradient of each modality's encoders, mean over the steps since the last call; on several
        ranks it is that of the whole batch.
        """
        means = (self.encoder_norms / max(1, self.steps)).tolist()
        self.encoder_norms.zero_()
        self.steps = 0
        return dict(zip(self.modalities, means, strict=True))

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state`, or from that of torch's own optimiser, which older checkpoints have."""
        if "state" in state:
            for i, memory in state["state"].items():
                for name, value in memory.items():
                    self.memory[name][i].copy_(value)
        else:
            for name, values in state.items():
                self.state[name].copy_(values)


def _views(flat: Tensor, parameters: Sequence[Tensor]) -> list[Tensor]:
    """Of each parameter, laid out in memory as it is."""
    parts = torch.split(flat, [p.numel() for p in parameters])
    return [part.as_strided(p.shape, p.stride()) for part, p in zip(parts, parameters, strict=True)]
