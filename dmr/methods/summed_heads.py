"""Evaluation of all combinations as sums: where the fused features are a weighted sum of what is present, a linear
layer is applied once to each of its terms, and a combination is the sum of what comes out. Where nothing but affine
maps follows, that is a sum of logits.

Letters: C combinations, M modalities, B samples, S positions of a map, D features, T terms, Z features of the
embedding, L classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from dmr.fusion import FusionModule, FusionTerm
from dmr.methods.heads import ClassificationHead, ProjectionHead, TaskHead, Trunk, pooled

SUMMED_AT_ONCE = 2**20  # values of an embedding: few enough to stay in a CPU's cache


class Affine(NamedTuple):
    """x ↦ W x + b."""

    weight: Tensor  # (Z, D)
    bias: Tensor  # (Z,)

    @classmethod
    def of(cls, linear: nn.Linear) -> Affine:
        return cls(linear.weight, linear.bias)

    def after(self, first: Affine) -> Affine:
        """This map of what `first` gives; multiplied out in float64, so that it loses nothing."""
        weight = self.weight.double()
        bias = weight @ first.bias.double() + self.bias
        return Affine((weight @ first.weight.double()).float(), bias.float())


def averaged(terms: Sequence[FusionTerm]) -> list[FusionTerm]:
    """The terms (B, D) of the fused features' mean over positions."""
    return [term._replace(values=pooled(term.values[None])[0]) for term in terms]


class TermSums:
    """An affine map of a fusion's terms, whose weighted sums are that map of the fused features."""

    def __init__(self, affine: Affine, terms: Sequence[FusionTerm]) -> None:
        parts = [functional.linear(term.values, affine.weight[:, term.columns]) for term in terms]
        parts.append(affine.bias.expand_as(parts[0]))
        self.parts = torch.stack(parts)  # (T + 1, B, *S, Z)
        weights = torch.stack([term.weights for term in terms], dim=1)
        self.weights = functional.pad(weights, (0, 1), value=1.0)  # (C, T + 1)

    def of(self, rows: slice = slice(None)) -> Tensor:
        """(c, B, *S, Z) of some of the C combinations."""
        weights = self.weights[rows]
        return (weights @ self.parts.flatten(1)).view(len(weights), *self.parts.shape[1:])

    def chunks(self) -> Iterator[slice]:
        """The C combinations, so many at a time that their sums have at most `SUMMED_AT_ONCE` values."""
        step = max(1, SUMMED_AT_ONCE // max(1, self.parts[0].numel()))
        yield from (slice(start, start + step) for start in range(0, len(self.weights), step))


class SummedProjection:
    """A `ProjectionHead` in eval mode on sums: one affine map, or a linear layer and the normalisation behind it."""

    def __init__(self, head: ProjectionHead) -> None:
        linear, norm = Affine.of(head.linear), head.norm
        self.affine: Affine | None = None  # the whole of it, where it is one
        self.linear, self.norm = linear, norm
        if isinstance(norm, nn.Identity):
            self.affine = linear
        elif isinstance(norm, nn.modules.batchnorm._BatchNorm):
            assert norm.running_mean is not None
            assert norm.running_var is not None
            scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
            self.affine = Affine(scale.diag(), norm.bias - scale * norm.running_mean).after(linear)

    def sums(self, terms: Sequence[FusionTerm]) -> TermSums:
        return TermSums(self.linear if self.affine is None else self.affine, terms)

    def finish(self, sums: Tensor) -> Tensor:
        """What the head gives, from the sums (c, B, *S, Z)."""
        projected: Tensor = sums if self.affine is not None else self.norm(sums)
        return projected


class DescribedCombinations(NamedTuple):
    """What is known of some of the combinations beside their logits."""

    rows: slice  # which of the C
    embedding: Tensor | None  # (c, B, Z)
    variance: Tensor | None  # (c, B)


class Summed(Protocol):
    """What predicts all combinations as sums, in eval mode."""

    def logits(self, contexts: Sequence[Tensor], masks: Tensor) -> Tensor:
        """(C, B, L) of the combinations `masks` (C, M), from features (B, *S, D) of each modality in float32."""

    def described(self, contexts: Sequence[Tensor], masks: Tensor) -> Iterator[DescribedCombinations]:
        """Embedding and variance of all combinations, some of them at a time; nothing for a method without them."""


class SummedHeads(Summed):
    """Fusion, projection and head of a method whose fusion is a sum."""

    def __init__(
        self,
        fusion: FusionModule,
        embed: ProjectionHead,
        head: ClassificationHead,
        spread: ProjectionHead | None = None,
        variance_of: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        """`variance_of` gives the variance (c, B) from what `spread`, by default `embed`, makes of the fused features;
        None for a method that predicts none.
        """
        self.fusion, self.variance_of = fusion, variance_of
        self.embed, self.classify = SummedProjection(embed), Affine.of(head.classify)
        self.spread = None if spread is None else SummedProjection(spread)
        self.to_logits = None if self.embed.affine is None else self.classify.after(self.embed.affine)

    def logits(self, contexts: Sequence[Tensor], masks: Tensor) -> Tensor:
        terms = self.fusion.terms(contexts, masks)
        if self.to_logits is not None:
            return TermSums(self.to_logits, averaged(terms)).of()
        sums = self.embed.sums(terms)
        embeddings = (pooled(self.embed.finish(sums.of(rows))) for rows in sums.chunks())
        return torch.cat([functional.linear(embedding, *self.classify) for embedding in embeddings])

    def described(self, contexts: Sequence[Tensor], masks: Tensor) -> Iterator[DescribedCombinations]:
        terms = self.fusion.terms(contexts, masks)
        sums = self.embed.sums(terms)
        spreads = None if self.spread is None else self.spread.sums(terms)
        for rows in sums.chunks():
            embedding, variance = self.embed.finish(sums.of(rows)), None
            if self.variance_of is not None:
                given = embedding if self.spread is None or spreads is None else self.spread.finish(spreads.of(rows))
                variance = self.variance_of(given)
            yield DescribedCombinations(rows, pooled(embedding), variance)


def summed_heads(
    fusion: FusionModule,
    trunk: Trunk,
    embed: ProjectionHead,
    head: TaskHead,
    spread: ProjectionHead | None = None,
    variance_of: Callable[[Tensor], Tensor] | None = None,
) -> SummedHeads | None:
    """None where the fusion is no sum, or where its sum goes through other layers."""
    if not fusion.is_sum or trunk.layers is not None or not isinstance(head, ClassificationHead):
        return None
    return SummedHeads(fusion, embed, head, spread, variance_of)
