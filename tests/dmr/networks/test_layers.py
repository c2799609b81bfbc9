from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from dmr.networks.layers import BatchNorm1d, BatchNorm2d, ResidualBlock, group_norm

NORMS: list[tuple[type[nn.Module], type[nn.Module], tuple[int, ...]]] = [
    (BatchNorm1d, nn.BatchNorm1d, ()),
    (BatchNorm1d, nn.BatchNorm1d, (1,)),
    (BatchNorm2d, nn.BatchNorm2d, (1, 1)),
]


def with_statistics(norm: Any) -> Any:
    with torch.no_grad():
        for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
            tensor.copy_(torch.rand(3) + 0.5)
    return norm.train()


@pytest.mark.parametrize(("safe", "torchs", "rest"), NORMS)
def test_one_value_a_channel_takes_the_running_statistics(safe: Any, torchs: Any, rest: tuple[int, ...]) -> None:
    norm = with_statistics(safe(3))
    before = {name: buffer.clone() for name, buffer in norm.named_buffers()}
    x = torch.randn(1, 3, *rest, requires_grad=True)
    y = norm(x)
    wanted = (x.flatten() - norm.running_mean) / (norm.running_var + norm.eps).sqrt() * norm.weight + norm.bias
    torch.testing.assert_close(y.flatten(), wanted)
    y.square().sum().backward()
    assert all(tensor.grad is not None and tensor.grad.abs().min() > 0 for tensor in (x, norm.weight, norm.bias))
    assert norm(x[:0]).shape == x[:0].shape
    assert all(torch.equal(before[name], buffer) for name, buffer in norm.named_buffers())
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        torchs(3).train()(x)


@pytest.mark.parametrize(("safe", "torchs", "rest"), [*NORMS, (BatchNorm2d, nn.BatchNorm2d, (4, 2))])
@pytest.mark.parametrize("training", [True, False])
def test_otherwise_it_is_torchs(safe: Any, torchs: Any, rest: tuple[int, ...], training: bool) -> None:
    norm, plain = with_statistics(safe(3)).train(training), torchs(3).train(training)
    plain.load_state_dict(norm.state_dict())
    x = torch.randn(2, 3, *rest)
    assert torch.equal(norm(x), plain(x))
    assert all(torch.equal(a, b) for a, b in zip(norm.buffers(), plain.buffers(), strict=True))


@pytest.mark.parametrize("norm", [BatchNorm1d, BatchNorm2d])
def test_workers_can_share_the_statistics(norm: Any) -> None:
    assert isinstance(nn.SyncBatchNorm.convert_sync_batchnorm(norm(3)), nn.SyncBatchNorm)


@pytest.mark.parametrize(("channels", "groups"), [(64, 8), (32, 8), (24, 4), (16, 4), (12, 2), (8, 2), (7, 1), (3, 1)])
def test_groups_have_several_channels(channels: int, groups: int) -> None:
    assert group_norm(channels).num_groups == groups
    assert group_norm(channels)(torch.randn(1, channels, 1, 1)).abs().max() > 0


@pytest.mark.parametrize(("inputs", "stride"), [(8, 1), (8, 2), (4, 1)])
def test_a_residual_block_is_the_formula(inputs: int, stride: int) -> None:
    block = ResidualBlock(inputs, 8, stride)
    x = torch.randn(2, inputs, 5, 6)
    first, _, _, second, _ = block.convolutions
    y = functional.conv2d(x, first.weight, stride=stride, padding=1)
    y = functional.conv2d(functional.group_norm(y, 2).clamp(min=0), second.weight, padding=1)
    shortcut = x
    if inputs != 8 or stride != 1:
        shortcut = functional.group_norm(functional.conv2d(x, block.shortcut[0].weight, stride=stride), 2)
    torch.testing.assert_close(block(x), (functional.group_norm(y, 2) + shortcut).clamp(min=0), rtol=1e-4, atol=1e-5)
