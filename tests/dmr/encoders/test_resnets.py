"""The ResNets against torchvision's, which cannot be imported here: sizes, names and shapes."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from dmr.encoders.resnet import ResNet18, ResNet34
from dmr.encoders.resnet18_se import ResNet18SE, SqueezeExcitation, StemSize
from dmr.encoders.resnet50 import ResNet50

NAMES_18 = [
    ("conv1.weight", [64, 3, 7, 7]),
    ("bn1.running_var", [64]),
    ("layer1.0.conv1.weight", [64, 64, 3, 3]),
    ("layer1.1.bn2.bias", [64]),
    ("layer2.0.downsample.0.weight", [128, 64, 1, 1]),
    ("layer2.0.downsample.1.running_mean", [128]),
    ("layer4.1.conv2.weight", [512, 512, 3, 3]),
]
NAMES_34 = [
    ("conv1.weight", [64, 3, 7, 7]),
    ("layer1.2.conv2.weight", [64, 64, 3, 3]),
    ("layer2.3.bn2.weight", [128]),
    ("layer3.0.downsample.0.weight", [256, 128, 1, 1]),
    ("layer3.5.conv1.weight", [256, 256, 3, 3]),
    ("layer4.2.bn2.running_mean", [512]),
]
NAMES_50 = [
    ("conv1.weight", [64, 3, 7, 7]),
    ("layer1.0.downsample.0.weight", [256, 64, 1, 1]),
    ("layer1.2.conv3.weight", [256, 64, 1, 1]),
    ("layer2.3.bn3.num_batches_tracked", []),
    ("layer3.0.conv2.weight", [256, 256, 3, 3]),
    ("layer3.5.conv1.weight", [256, 1024, 1, 1]),
    ("layer4.0.downsample.1.weight", [2048]),
    ("layer4.2.conv3.weight", [2048, 512, 1, 1]),
]


def size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_sizes_are_torchvisions() -> None:
    assert size(ResNet18((3, 64, 64))) == 11_689_512 - 513_000
    assert size(ResNet34((3, 64, 64))) == 21_797_672 - 513_000
    assert size(ResNet34((1, 64, 64))) == 21_797_672 - 513_000 - 2 * 64 * 7 * 7
    resnet50 = ResNet50((3, 64, 64))
    assert size(resnet50) - size(resnet50.projection) == 25_557_032 - 2_049_000


def test_names_are_torchvisions() -> None:
    """120, 216 and 318 tensors: torchvision's 122, 218 and 320 without fc.weight and fc.bias."""
    state = ResNet18((3, 64, 64)).state_dict()
    assert len(state) == 120
    assert [(name, list(state[name].shape)) for name, _ in NAMES_18] == NAMES_18
    state = ResNet34((3, 64, 64)).state_dict()
    assert len(state) == 216
    assert [(name, list(state[name].shape)) for name, _ in NAMES_34] == NAMES_34
    state = ResNet50((3, 64, 64)).state_dict()
    assert len([name for name in state if not name.startswith("projection.")]) == 318
    assert [(name, list(state[name].shape)) for name, _ in NAMES_50] == NAMES_50


def test_where_the_strides_are() -> None:
    """In ResNet-50 the 3×3 convolution has it, as in torchvision."""
    resnet50 = ResNet50((3, 64, 64))
    for layer in (resnet50.layer2, resnet50.layer3, resnet50.layer4):
        assert [layer[0].conv1.stride, layer[0].conv2.stride, layer[1].conv2.stride] == [(1, 1), (2, 2), (1, 1)]
    assert resnet50.layer1[0].conv2.stride == (1, 1)
    resnet18 = ResNet18((3, 64, 64))
    assert [layer[0].conv1.stride[0] for layer in (resnet18.layer1, resnet18.layer2, resnet18.layer4)] == [1, 2, 2]


@pytest.mark.parametrize("channels", [1, 3])
def test_a_block_is_the_formula(channels: int) -> None:
    """relu(bn2(conv2(relu(bn1(conv1 x)))) + bn(conv x)), with the statistics at hand."""
    network = ResNet18((channels, 32, 32)).eval()
    block = network.layer2[0]
    x = torch.randn(2, 64, 6, 5)
    scale = 1 / (1 + block.bn1.eps) ** 0.5  # running statistics 0 and 1, weight 1, bias 0
    y = functional.conv2d(x, block.conv1.weight, stride=2, padding=1).mul(scale).clamp(min=0)
    y = functional.conv2d(y, block.conv2.weight, padding=1) * scale
    shortcut = functional.conv2d(x, block.downsample[0].weight, stride=2) * scale
    torch.testing.assert_close(block(x), (y + shortcut).clamp(min=0), rtol=1e-4, atol=1e-5)
    assert network(torch.randn(2, channels, 32, 32))[0].shape == (2, 512)


@pytest.mark.parametrize("stem", ["7x7", "3x3"])
def test_the_split_of_the_face_network(stem: StemSize) -> None:
    encoder = ResNet18SE((3, 112, 112), stem).eval()
    (features,) = encoder(torch.randn(2, 3, 112, 112))
    assert features.shape == (2, 128, 14, 14)
    trunk = encoder.trunk(3 * 128).eval()
    assert trunk.width == 512
    assert trunk(torch.cat([features] * 3, dim=1)).shape == (2, 512, 4, 4)
    trunk.train()(torch.randn(2, 384, 14, 14)).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in trunk.parameters())


@pytest.mark.parametrize("size", [8, 33, 112])
def test_a_smaller_stem_is_another_convolution_and_nothing_else(size: int) -> None:
    """Of the published network the released code has another: 3×3, stride 2, padding 1."""
    published, released = ResNet18SE((3, size, size), "7x7"), ResNet18SE((3, size, size), "3x3")
    shapes = [{n: list(t.shape) for n, t in network.state_dict().items()} for network in (published, released)]
    assert {name for name in shapes[0] if shapes[0][name] != shapes[1][name]} == {"conv1.weight"}
    assert shapes[1]["conv1.weight"] == [64, 3, 3, 3]
    x = torch.randn(1, 3, size, size)
    expected = functional.conv2d(x, released.conv1.weight, stride=2, padding=1)
    torch.testing.assert_close(released.conv1(x), expected)
    assert released(x)[0].shape == published(x)[0].shape


def test_the_two_halves_are_a_resnet18() -> None:
    whole, half = ResNet18((3, 32, 32)).eval(), ResNet18SE((3, 32, 32), "7x7").eval()
    trunk = half.trunk(128).eval()
    half.load_state_dict(whole.state_dict(), strict=False)
    trunk.load_state_dict(whole.state_dict(), strict=False)
    half.se = nn.Identity()
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(trunk(half(x)[0]).mean(dim=(2, 3)), whole(x)[0])


def test_recalibration_by_hand() -> None:
    layer = SqueezeExcitation(32)
    x = torch.randn(3, 32, 4, 5)
    squeezed = x.flatten(2).mean(2)
    hidden = (squeezed @ layer.fc1.weight.flatten(1).T + layer.fc1.bias).clamp(min=0)
    gate = 1 / (1 + torch.exp(-(hidden @ layer.fc2.weight.flatten(1).T + layer.fc2.bias)))
    assert layer.fc1.out_channels == 2
    torch.testing.assert_close(layer(x), torch.einsum("bchw,bc->bchw", x, gate))
