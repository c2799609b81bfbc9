"""MARS: a mixture of experts whose router is taught what missing modalities do to the fused features.

ECCV 2026 (arXiv 2606.30355), written from its description. Each sample is seen twice, with the drawn combination and
with all modalities it has. In training the experts of the first pass are chosen by the residual r = z_part − z_full,
which shows what is missing; a second router, of the features alone, learns to choose alike, and is the one in use.

What the description leaves open: an expert is a copy of the projection to the embedding, the last block before the
head; routers read the mean over positions of a map; the hidden layer of the feature router is as wide as the fused
features; the load is the smooth estimator of Shazeer et al., "Outrageously Large Neural Networks", ICLR 2017
(arXiv 1701.06538), appendix A; a sample that lacks modalities has its own full set as the complete one.

Letters: M modalities, B samples, K combinations per sample, C combinations, S positions of a map, D fused features,
Z features of the embedding, E experts, P pixels of a label map, L classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dmr.data.transfer import to_device
from dmr.distributed.ranks import Ranks
from dmr.methods.base import Components, Features, MaskedBatch, Method, Prediction, StepLosses
from dmr.methods.dropout import DropoutSettings
from dmr.methods.heads import ClassificationHead, ProjectionHead, pooled
from dmr.methods.summed_heads import Affine, DescribedCombinations, Summed, SummedProjection, TermSums, averaged
from dmr.networks.layers import BatchNorm1d
from dmr.settings import setting

LEAST_NOISE = 0.01


@dataclass(frozen=True)
class MARSSettings(DropoutSettings):
    """Of the `experts` at most `active` count for a sample. The weights a, b and c of the loss are `balance_weight`,
    `router_weight` and `order_weight`; the published ones are unknown. With a small b the residual, in which the
    missing modalities can be read, chooses experts that the feature router does not find.
    """

    experts: int = setting(16, ge=1, le=64)
    active: int = setting(5, ge=1, le=64)
    balance_weight: float = setting(0.01, ge=0.0)
    router_weight: float = setting(10.0, ge=0.0)
    order_weight: float = setting(0.01, ge=0.0)


class MARS(Method):
    """CE_full + CE_part + a · [CV²(importance) + CV²(load)] + b · KL(p_r ‖ p_f) + c · order, with p_r held fixed in KL;
    p_r and p_f are the softmax over all experts of the residual router's (noisy) logits and of the feature router's, in
    the first pass.
    """

    Settings = MARSSettings
    encodes_all = True
    search_space: ClassVar[dict[str, Any]] = {
        "model.balance_weight": {"log_uniform": [1e-3, 1.0]},
        "model.router_weight": {"log_uniform": [0.1, 100.0]},
        "model.order_weight": {"log_uniform": [1e-3, 1.0]},
    }

    def __init__(self, settings: MARSSettings, parts: Components) -> None:
        super().__init__(settings, parts)
        self.fusion = parts.fusion()
        self.trunk = parts.trunk(self.fusion.width)
        width, experts = self.trunk.width, settings.experts
        self.blocks = [ProjectionHead(width, settings.head_norm, parts.embedding_width) for _ in range(experts)]
        self.experts = nn.ModuleList(self.blocks)
        self.residual_router = ResidualRouter(width, experts)
        self.feature_router = FeatureRouter(width, experts)
        self.head = parts.head(parts.embedding_width)

    def losses(self, seen: MaskedBatch, generator: torch.Generator) -> StepLosses:
        """Both passes are one batch, of K + 1 combinations."""
        full = torch.ones_like(seen.masks[:1])
        if seen.has is not None:
            full = to_device(seen.part.cut(seen.has), full.device)[None]
        masks = torch.cat([seen.masks, full])
        z = self.trunk(self.fusion(seen.features.contexts, masks))
        routed = pooled(z).float()
        residual = self.residual_router(routed[:-1] - routed[-1:], seen, generator)
        features = self.feature_router(routed)
        gates = self.gates(torch.cat([residual.noisy, features[-1:]]))
        task = self.criterion(self.head(self.mixed(z, gates), seen.features.skips, masks), seen.labels)
        part, complete = task[:-1], task[-1].mean()
        balance = balance_loss(gates[:-1], residual.load(self.settings.active), seen.part.ranks)
        p_r, log_p_f = residual.noisy.softmax(-1).detach(), features[:-1].log_softmax(-1)
        router = F.kl_div(log_p_f, p_r, reduction="none").sum(-1).mean()
        order = order_loss(residual.scale, p_r, log_p_f.detach().exp(), self.settings.active).mean()
        total = complete + part.mean() + self.settings.balance_weight * balance
        total = total + self.settings.router_weight * router + self.settings.order_weight * order
        named = {"task": part.mean(), "full": complete, "balance": balance, "router": router, "order": order}
        terms = {name: value.detach() for name, value in named.items()}
        return StepLosses(total, part.detach(), seen.combination, None, terms)

    def gates(self, logits: Tensor) -> Tensor:
        """(K, B, E): a softmax over the `active` largest of the logits (K, B, E), 0 for the others."""
        top = logits.topk(min(self.settings.active, logits.shape[-1]), dim=-1)
        return torch.zeros_like(logits).scatter(-1, top.indices, top.values.softmax(-1))

    def mixed(self, z: Tensor, gates: Tensor) -> Tensor:
        """(K, B, *S, Z) Σ_i gate_i · expert_i(z)."""
        return weighted_sum((expert(z) for expert in self.experts), gates)

    def predict(self, features: Features, masks: Tensor) -> Prediction:
        z = self.trunk(self.fusion(features.contexts, masks))
        embedding = self.mixed(z, self.gates(self.feature_router(pooled(z))))
        return Prediction(self.head(embedding, features.skips, masks), None, pooled(embedding))

    def summed(self) -> Summed | None:
        is_ours = type(self).predict is MARS.predict and self.trunk.layers is None
        if not is_ours or not self.fusion.is_sum or not isinstance(self.head, ClassificationHead):
            return None
        return SummedMixture(self, Affine.of(self.head.classify))


class Routing(NamedTuple):
    """What the residual router makes of a sample's residual, each (K, B, E)."""

    clean: Tensor
    noisy: Tensor  # logits
    scale: Tensor  # of the noise, > 0

    def load(self, active: int) -> Tensor:
        """(K, B, E) the probability that an expert is among the `active` largest if its noise alone is drawn again."""
        if active >= self.noisy.shape[-1]:
            return torch.ones_like(self.noisy)
        largest = self.noisy.topk(active + 1, dim=-1).values
        last_in, first_out = largest[..., -2:-1], largest[..., -1:]
        threshold = torch.where(self.noisy > first_out, first_out, last_in)
        load: Tensor = torch.special.ndtr((self.clean - threshold) / self.scale)
        return load


class ResidualRouter(nn.Module):
    """Logits r·W_g, and noise of scale softplus(r·W_n) + 0.01 on them."""

    def __init__(self, width: int, experts: int) -> None:
        super().__init__()
        self.gate = nn.Linear(width, experts, bias=False)
        self.noise = nn.Linear(width, experts, bias=False)

    def forward(self, residual: Tensor, seen: MaskedBatch, generator: torch.Generator) -> Routing:
        """From residuals (K, B, D)."""
        clean = self.gate(residual).float()
        scale = F.softplus(self.noise(residual).float()) + LEAST_NOISE
        drawn = seen.part.draw(torch.randn, clean.shape, 1, generator, device=clean.device)
        return Routing(clean, clean + scale * drawn, scale)


class FeatureRouter(nn.Module):
    """Linear, BatchNorm, ReLU, Linear: logits (K, B, E) from features (K, B, D)."""

    def __init__(self, width: int, experts: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(width, width)
        self.norm = BatchNorm1d(width)
        self.choose = nn.Linear(width, experts)

    def forward(self, features: Tensor) -> Tensor:
        return self.logits(self.hidden(features))

    def logits(self, hidden: Tensor) -> Tensor:
        """From what the first layer gives, (K, B, D)."""
        normed: Tensor = self.norm(hidden.flatten(0, 1)).view(hidden.shape)
        logits: Tensor = self.choose(F.relu(normed))
        return logits.float()


def balance_loss(gates: Tensor, load: Tensor, ranks: Ranks) -> Tensor:
    """() CV²(importance) + CV²(load): of the sums of gates and of loads (K, B, E) over all samples of all ranks, the
    variance over experts over the squared mean.
    """
    sums = ranks.sum(torch.stack([gates, load]).sum((1, 2)))  # (2, E)
    return (sums.var(-1, correction=0) / sums.mean(-1).square()).sum()


def order_loss(scale: Tensor, p_r: Tensor, p_f: Tensor, active: int) -> Tensor:
    """(K, B) mean softplus(log s²_{j+1} − log s²_j) over neighbours among the experts that are in the `active` largest
    of either router, in the order of falling |p_r − p_f|: where the routers disagree more there is to be more noise.
    All are (K, B, E).
    """
    chosen = torch.zeros_like(p_r, dtype=torch.bool)
    for p in (p_r, p_f):
        chosen = chosen.scatter(-1, p.topk(min(active, p.shape[-1]), dim=-1).indices, True)
    order = torch.where(chosen, (p_r - p_f).abs(), -1.0).argsort(-1, descending=True)
    log_variance = 2.0 * scale.log().gather(-1, order)
    counted = chosen.gather(-1, order)[..., 1:]
    steps = torch.where(counted, F.softplus(log_variance.diff(dim=-1)), 0.0)
    return steps.sum(-1) / counted.sum(-1).clamp(min=1)


def weighted_sum(embeddings: Iterable[Tensor], gates: Tensor) -> Tensor:
    """(K, B, *S, Z) of those of each expert, by gates (K, B, E)."""
    total: Tensor | float = 0.0
    for gate, embedding in zip(gates.unbind(-1), embeddings, strict=True):
        total = total + gate.view(*gate.shape, *[1] * (embedding.ndim - 2)) * embedding
    assert isinstance(total, Tensor)
    return total


class SummedMixture(Summed):
    """The first linear layer of the router and those of the experts are applied to what is present once."""

    def __init__(self, method: MARS, classify: Affine) -> None:
        self.method, self.classify = method, classify
        self.experts = [SummedProjection(expert) for expert in method.blocks]

    def logits(self, contexts: Sequence[Tensor], masks: Tensor) -> Tensor:
        found = (pooled(embedding) for _, embedding in self.embeddings(contexts, masks))
        return torch.cat([F.linear(embedding, *self.classify) for embedding in found])

    def described(self, contexts: Sequence[Tensor], masks: Tensor) -> Iterator[DescribedCombinations]:
        for rows, embedding in self.embeddings(contexts, masks):
            yield DescribedCombinations(rows, pooled(embedding), None)

    def embeddings(self, contexts: Sequence[Tensor], masks: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """(c, B, *S, Z) of some of the combinations at a time."""
        terms = self.method.fusion.terms(contexts, masks)
        routed = TermSums(Affine.of(self.method.feature_router.hidden), averaged(terms))
        sums = [expert.sums(terms) for expert in self.experts]
        for rows in sums[0].chunks():
            gates = self.method.gates(self.method.feature_router.logits(routed.of(rows)))
            found = (expert.finish(one.of(rows)) for expert, one in zip(self.experts, sums, strict=True))
            yield rows, weighted_sum(found, gates)
