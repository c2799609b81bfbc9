"""What every encoder owes: a new one is covered by its lines here."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import torch

from dmr.data.dataset import Kind, Modality
from dmr.encoders import ENCODERS, Encoder, EncoderModule, EncoderSettings, build_encoder
from dmr.encoders.cnn import CNNSettings
from dmr.encoders.frames import FramesSettings
from dmr.encoders.mlp import MLPSettings
from dmr.encoders.pyramid import PyramidSettings
from dmr.encoders.resnet import ResNet18Settings, ResNet34Settings
from dmr.encoders.resnet18_se import ResNet18SESettings
from dmr.encoders.resnet50 import ResNet50Settings
from dmr.encoders.resnet_small import SmallResNetSettings
from dmr.encoders.sequence import SequenceSettings


class Case(NamedTuple):
    """An encoder, what it reads, and the shapes of one sample's levels."""

    settings: EncoderSettings
    kind: Kind
    shape: tuple[int, ...]
    levels: list[tuple[int, ...]]


CASES = {
    "mlp": Case(MLPSettings(width=12), "vector", (6,), [(12,)]),
    "cnn": Case(CNNSettings(width=12), "image", (3, 9, 8), [(12,)]),
    "sequence": Case(SequenceSettings(width=12), "sequence", (4, 13), [(12,)]),
    "sequence of segments": Case(SequenceSettings(width=12, segments=3), "sequence", (4, 50), [(36,)]),
    "sequence with batch norm": Case(SequenceSettings(width=12, norm="batch"), "sequence", (4, 13), [(12,)]),
    "resnet_small": Case(SmallResNetSettings(width=12), "spectrogram", (1, 9, 8), [(12,)]),
    "resnet18": Case(ResNet18Settings(), "spectrogram", (1, 33, 40), [(512,)]),
    "resnet34": Case(ResNet34Settings(), "spectrogram", (1, 33, 40), [(512,)]),
    "resnet18_se": Case(ResNet18SESettings(), "image", (3, 33, 40), [(128, 5, 5)]),
    "resnet18_se with a small stem": Case(ResNet18SESettings(stem="3x3"), "image", (3, 33, 40), [(128, 5, 5)]),
    "frames": Case(FramesSettings(width=12), "frames", (3, 2, 9, 8), [(12,)]),
    "frames of resnet18": Case(FramesSettings(frame="resnet18"), "frames", (2, 3, 33, 40), [(512,)]),
    "pyramid": Case(PyramidSettings(width=8), "image", (3, 9, 14), [(8, 9, 14), (16, 5, 7), (32, 3, 4)]),
    "resnet50": Case(
        ResNet50Settings(),
        "image",
        (3, 33, 64),
        [(64, 17, 32), (256, 9, 16), (512, 5, 8), (1024, 3, 4), (512, 2, 2)],
    ),
}
WITH_BATCH_NORM = {
    "sequence with batch norm",
    "resnet18",
    "resnet34",
    "resnet18_se",
    "resnet18_se with a small stem",
    "frames of resnet18",
    "resnet50",
}
every_case = pytest.mark.parametrize("name", CASES)


def encoder_of(name: str) -> Encoder:
    settings, kind, shape, _ = CASES[name]
    return build_encoder(Modality("a", kind, shape), settings, torch.zeros(()), torch.ones(()))


def inputs_of(name: str, count: int, **keys: Any) -> torch.Tensor:
    return torch.randn(count, *CASES[name].shape, **keys)


def buffers_of(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: buffer.clone() for name, buffer in module.named_buffers()}


def test_every_encoder_is_tested() -> None:
    assert {type(case.settings) for case in CASES.values()} == set(ENCODERS.values())


@every_case
def test_levels_are_shaped_as_declared(name: str) -> None:
    encoder = encoder_of(name).eval()
    levels = encoder(inputs_of(name, 2))
    assert isinstance(levels, tuple)
    assert [tuple(level.shape) for level in levels] == [(2, *level) for level in CASES[name].levels]
    assert encoder.widths == tuple(level.shape[1] for level in levels)
    assert len(levels) == 1 or CASES[name].settings.task == "segmentation"


@every_case
def test_gradients_reach_every_parameter(name: str) -> None:
    encoder = encoder_of(name).train()
    levels = encoder(inputs_of(name, 4))
    sum((level * torch.randn_like(level)).sum() for level in levels).backward()
    for key, parameter in encoder.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
        assert parameter.grad.abs().max() > 0, key


@pytest.mark.parametrize(
    ("name", "training"),
    [*((name, False) for name in CASES), *((name, True) for name in CASES if name not in WITH_BATCH_NORM)],
)
def test_a_sample_does_not_see_the_others(name: str, training: bool) -> None:
    encoder = encoder_of(name).train(training)
    x = inputs_of(name, 3)
    alone = [encoder(x[i : i + 1]) for i in range(3)]
    for level, parts in zip(encoder(x), zip(*alone, strict=True), strict=True):
        torch.testing.assert_close(level, torch.cat(parts), rtol=1e-3, atol=1e-4)
    assert [tuple(level.shape) for level in encoder(x[:0])] == [(0, *level) for level in CASES[name].levels]


@every_case
def test_a_single_sample_in_training(name: str) -> None:
    encoder = encoder_of(name).train()
    for level in encoder(inputs_of(name, 1)):
        assert level.isfinite().all()
        level.square().sum().backward(retain_graph=True)
    assert all(p.grad is None or p.grad.isfinite().all() for p in encoder.parameters())
    assert all(buffer.isfinite().all() for buffer in encoder.buffers())


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_a_single_sample_of_one_pixel_leaves_the_running_statistics(name: str) -> None:
    settings = CASES[name].settings
    encoder = build_encoder(Modality("a", "image", (3, 2, 2)), settings, torch.zeros(()), torch.ones(())).train()
    before = buffers_of(encoder)
    levels = encoder(torch.randn(1, 3, 2, 2))
    sum(level.sum() for level in levels).backward()
    assert all(level.isfinite().all() for level in levels)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in encoder.parameters())
    after = buffers_of(encoder)
    assert all(torch.equal(before[key], after[key]) for key in before)


@every_case
def test_bf16_autocast_is_finite_and_near(name: str) -> None:
    encoder = encoder_of(name).eval()
    x = inputs_of(name, 4)
    exact = encoder(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert encoder.standardise(x).dtype == torch.float32
        rough = encoder(x)
        levels = encoder.train()(x)
    for level, same in zip(rough, exact, strict=True):
        assert (level.float() - same).norm() < 0.05 * same.norm()
    sum(level.float().sum() for level in levels).backward()
    assert all(level.isfinite().all() for level in levels)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in encoder.parameters())


@pytest.mark.parametrize("name", [name for name in CASES if len(CASES[name].shape) == 3])
def test_channels_last(name: str) -> None:
    encoder = encoder_of(name).eval()
    x = inputs_of(name, 2)
    expected = encoder(x)
    got = encoder.to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last))
    for level, same in zip(got, expected, strict=True):
        torch.testing.assert_close(level, same, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["mlp", "cnn", "sequence", "resnet18_se", "frames", "pyramid"])
def test_one_graph_for_all_sizes_of_batch(name: str) -> None:
    torch.compiler.reset()
    encoder = encoder_of(name).train()
    graphs = []

    def counted(graph: torch.fx.GraphModule, _: list[torch.Tensor]) -> Any:
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(encoder, backend=counted, dynamic=True, fullgraph=True)
    for count in (17, 19, 23):  # unlike any other size here, and above 15, where mkldnn changes its mind
        assert compiled(inputs_of(name, count))[-1].shape[0] == count
    assert len(graphs) == 1


@pytest.mark.parametrize("pooling", ["mean", "max"])
@torch.no_grad()
def test_segments_tell_early_from_late(pooling: str) -> None:
    """An impulse in the first or in the last third: the same to a pool over all time, not to those of the thirds."""
    x = torch.zeros(2, 4, 192)
    x[0, :, 32], x[1, :, 160] = 1.0, 1.0
    features = {}
    for segments in (1, 3):
        torch.manual_seed(0)
        module = SequenceSettings.Module(
            (4, 192), width=8, segments=segments, pooling=pooling, norm="group", dropout=0.0
        ).eval()
        features[segments] = module(x)[0].view(2, 8, segments)
    whole = features[3].mean(-1) if pooling == "mean" else features[3].amax(-1)
    torch.testing.assert_close(whole, features[1][..., 0])
    torch.testing.assert_close(features[1][0], features[1][1])
    assert (features[3][0] - features[3][1]).abs().max() > 0.05


@pytest.mark.parametrize("settings", [MLPSettings, CNNSettings, SequenceSettings, SmallResNetSettings])
def test_dropout_is_on_in_training_only(settings: Any) -> None:
    case = next(case for case in CASES.values() if type(case.settings) is settings)
    own = {key: value for key, value in vars(settings(width=16, dropout=0.5)).items() if key != "weights"}
    encoder: EncoderModule = settings.Module(case.shape, **own).eval()
    x = torch.randn(4, *case.shape)
    assert torch.equal(encoder(x)[0], encoder(x)[0])
    encoder.train()
    assert not torch.equal(encoder(x)[0], encoder(x)[0])
