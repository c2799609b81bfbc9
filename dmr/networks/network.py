"""From inputs to predictions: encode what is present, and hand over to the method.

Letters: M modalities, B samples, K combinations per sample, C combinations, S positions of a map, D features, P pixels
of a label map (none in classification), L classes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from dmr.combinations import enumerate_combinations
from dmr.data.dataset import InputStatistics, Modality
from dmr.data.transfer import to_device
from dmr.distributed.ranks import BatchShard
from dmr.encoders import EncoderModule, EncoderSettings, build_encoder
from dmr.fusion import build_fusion
from dmr.losses import TaskLoss
from dmr.methods import MethodSettings, build_method
from dmr.methods.base import AnyNetwork, Components, Features, MaskedBatch, Prediction, StepLosses
from dmr.methods.heads import ClassificationHead, SegmentationHead, TaskHead, Trunk
from dmr.networks.design import Design
from dmr.sampling import rows_by_modality

EVALUATED_AT_ONCE = 16_384


class Network(AnyNetwork):
    """One encoder per modality, and the method behind them."""

    def __init__(self, design: Design, statistics: Mapping[str, InputStatistics], criterion: TaskLoss) -> None:
        """A new network; its weights are drawn from torch's global generator.

        Args:
            statistics: those of each modality in train, by which inputs are standardised.

        Raises:
            ValueError: the encoders give maps of different sizes, which cannot be fused.
        """
        super().__init__()
        modalities = design.modalities
        self.names = tuple(modality.name for modality in modalities)
        everything = enumerate_combinations(self.names)
        self.combinations = torch.from_numpy(everything.masks)  # (C, M) on the CPU
        self.channels_last = design.channels_last
        self.encoded = 0
        encoders = [
            build_encoder(m, design.encoders[m.name], statistics[m.name].mean, statistics[m.name].std)
            for m in modalities
        ]
        self.shapes = [_level_shapes(encoder, m) for encoder, m in zip(encoders, modalities, strict=True)]
        _check_sizes(self.names, self.shapes)
        widths = tuple(encoder.widths[-1] for encoder in encoders)
        self.method = build_method(
            design.method,
            Components(
                widths=widths,
                combinations=everything,
                criterion=criterion,
                num_classes=design.num_classes,
                fusion=partial(build_fusion, widths, design.fusion),
                trunk=partial(_trunk, encoders[0]),
                embedding_width=_trunk(encoders[0], sum(widths)).width,
                head=partial(_head, [encoder.widths[:-1] for encoder in encoders], design),
                network=lambda names, own: Network(_within(design, names, own), statistics, criterion),
            ),
        )
        self.encoders = nn.ModuleList([] if self.method.own_encoders else encoders)
        if design.channels_last:
            self.encoders.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if design.compile:
            for encoder in self.encoders:
                encoder.compile(dynamic=True)

    @classmethod
    def restored(cls, design: Design, state: Mapping[str, Any]) -> Network:
        """The network with the weights of a checkpoint, on the CPU, in eval mode.

        Raises:
            RuntimeError: these are weights of another network.
        """
        encoders = {name: replace(encoder, weights=None) for name, encoder in design.encoders.items()}
        statistics = {modality.name: _statistics_of(modality) for modality in design.modalities}
        with torch.random.fork_rng([], device_type="cuda"):
            network = cls(replace(design, encoders=encoders), statistics, TaskLoss())
        network.load_state_dict(state)
        return network.eval()

    def take_encoded(self) -> int:
        """Samples times encoders run in training since the last call, of all networks in this one."""
        networks = [module for module in self.modules() if isinstance(module, Network)]
        total = sum(inner.encoded for inner in networks)
        for inner in networks:
            inner.encoded = 0
        return total

    def encoder_parameters(self) -> dict[str, list[nn.Parameter]]:
        """Those of each modality's encoders, in this network and in all inside it."""
        found: dict[str, list[nn.Parameter]] = {name: [] for name in self.names}
        for inner in self.modules():
            if isinstance(inner, Network) and inner.encoders:
                for name, encoder in zip(inner.names, inner.encoders, strict=True):
                    found[name] += encoder.parameters()
        return found

    def losses(
        self,
        inputs: Mapping[str, Tensor],
        labels: Tensor,
        combination: Tensor,
        generator: torch.Generator,
        has: Tensor | None = None,
        part: BatchShard | None = None,
    ) -> StepLosses:
        masks = self.combinations[combination]
        needed, needed_on_any_rank = masks.any(0), None
        if self.method.encodes_all:
            needed = torch.ones_like(needed) if has is None else has
        if part is not None:
            needed_on_any_rank = needed.any(0)
            masks, combination, needed = part.cut(masks, 1), part.cut(combination, 1), part.cut(needed)
        features = self.encode(inputs, needed, needed_on_any_rank)
        masks, combination = (to_device(x, labels.device) for x in (masks, combination))
        seen = MaskedBatch(features, masks, combination, labels, inputs, needed, has, part, needed_on_any_rank)
        return self.method.losses(seen, generator)

    def predict(self, inputs: Mapping[str, Tensor], masks: Tensor) -> Prediction:
        if self.method.own_encoders:
            return self.method.predict_inputs(inputs, masks)
        features = self.encode(inputs)
        first = features.contexts[0]
        step = max(1, EVALUATED_AT_ONCE // max(1, len(first) * math.prod(first.shape[1:-1])))
        parts = [
            self.method.predict(features, chunk[:, None, :].expand(-1, len(first), -1))
            for chunk in torch.split(masks.to(first.device, non_blocking=True), step)
        ]
        logits, variances, embeddings = zip(*parts, strict=True)
        return Prediction(torch.cat(logits), _joined(variances), _joined(embeddings))

    def encode(
        self, inputs: Mapping[str, Tensor], needed: Tensor | None = None, needed_on_any_rank: Tensor | None = None
    ) -> Features:
        """Features of each modality; zeros where `needed` (B, M), bool on the CPU, is False.

        Only the samples that need a modality go through its encoder: they are gathered, encoded and scattered back.
        `needed` is on the CPU so that a GPU is never waited for. An encoder that is `needed_on_any_rank` (M,) is run
        with no sample as well: it may wait for other ranks inside.
        """
        pyramids = []
        device = inputs[self.names[0]].device
        rows = [None] * len(self.names) if needed is None else rows_by_modality(needed, device)
        for m, encoder in enumerate(self.encoders):
            own = rows[m]
            run = own is None or len(own) > 0 if needed_on_any_rank is None else bool(needed_on_any_rank[m])
            pyramids.append(self._levels(encoder, inputs[self.names[m]], own, self.shapes[m], run))
        contexts = [levels[-1].movedim(1, -1) for levels in pyramids]
        return Features(contexts, list(zip(*(levels[:-1] for levels in pyramids), strict=True)))

    def _levels(
        self, encoder: nn.Module, x: Tensor, rows: Tensor | None, shapes: Sequence[torch.Size], run: bool
    ) -> Sequence[Tensor]:
        """The encoder's levels, (B, D, ...) each, encoded at `rows` and zero elsewhere; None encodes all."""
        if self.channels_last and x.ndim == 4:
            x = x.contiguous(memory_format=torch.channels_last)
        if self.training:
            self.encoded += len(x) if rows is None else len(rows)
        if not run:
            return [torch.zeros((len(x), *shape), device=x.device) for shape in shapes]
        if rows is None or len(rows) == len(x):
            levels: Sequence[Tensor] = encoder(x)
            return levels
        return [
            level.new_zeros((len(x), *level.shape[1:])).index_copy(0, rows, level)
            for level in encoder(x.index_select(0, rows))
        ]


def _within(design: Design, names: Sequence[str], method: MethodSettings) -> Design:
    """The design of a network inside another: of some of its modalities, with a method of its own."""
    modalities = tuple(modality for modality in design.modalities if modality.name in names)
    return replace(design, modalities=modalities, method=method)


def _statistics_of(modality: Modality) -> InputStatistics:
    """In the shape of a modality's statistics; the values are among the weights."""
    channel = 1 if modality.kind == "frames" else 0
    broadcast = tuple(n if axis == channel else 1 for axis, n in enumerate(modality.shape))
    shape = modality.shape if modality.kind == "vector" else broadcast
    return InputStatistics(torch.zeros(shape), torch.ones(shape))


@torch.no_grad()
def _level_shapes(encoder: nn.Module, modality: Modality) -> list[torch.Size]:
    """The shape of each level of one sample."""
    encoder.eval()
    shapes = [level.shape[1:] for level in encoder(torch.zeros((1, *modality.shape)))]
    encoder.train()
    return shapes


def _joined(parts: Sequence[Tensor | None]) -> Tensor | None:
    """(C, ...) from the chunks' tensors, None for a method that has none."""
    found = [part for part in parts if part is not None]
    return torch.cat(found) if found else None


def _trunk(encoder: EncoderModule, width: int) -> Trunk:
    layers = encoder.trunk(width)
    return Trunk(layers, width if layers is None else layers.width)


def _head(skip_widths: Sequence[Sequence[int]], design: Design, width: int) -> TaskHead:
    """`skip_widths`: of each modality, of each level."""
    if design.size is None:
        return ClassificationHead(width, design.num_classes)
    return SegmentationHead(width, list(zip(*skip_widths, strict=True)), design.num_classes, design.size)


def check_encoders(modalities: Sequence[Modality], encoders: Mapping[str, EncoderSettings]) -> None:
    """Find out with one sample of zeros whether these encoders' features can be fused.

    On torch's device "meta" nothing would be computed, but it imports torch's compiler, which takes seconds.

    Raises:
        ValueError: they cannot.
    """
    with torch.random.fork_rng(devices=[]):
        unit = torch.ones(1)
        built = [build_encoder(m, replace(encoders[m.name], weights=None), unit, unit) for m in modalities]
        shapes = [_level_shapes(encoder, m) for encoder, m in zip(built, modalities, strict=True)]
    _check_sizes([modality.name for modality in modalities], shapes)


def _check_sizes(names: Sequence[str], shapes: Sequence[Sequence[torch.Size]]) -> None:
    """`shapes`: of each modality, of each level, (D, *S)."""
    sizes = [", ".join("×".join(map(str, shape[1:])) or "a vector" for shape in levels) for levels in shapes]
    for name, size in zip(names, sizes, strict=True):
        if size != sizes[0]:
            raise ValueError(
                f"modality {name}: its encoder gives {size}; that of {names[0]} gives {sizes[0]}; "
                "equal sizes are needed to fuse them"
            )
