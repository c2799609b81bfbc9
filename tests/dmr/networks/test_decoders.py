from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from dmr.encoders.pyramid import Pyramid
from dmr.encoders.resnet50 import ResNet50
from dmr.networks.decoders import Decoder


def maps(count: int = 2) -> tuple[Tensor, list[Tensor]]:
    """A context of 12 channels and skips of 4 and 8 from images of 9×14."""
    return torch.randn(count, 12, 3, 4), [torch.randn(count, 4, 9, 14), torch.randn(count, 8, 5, 7)]


def test_the_levels_of_the_encoders_fit() -> None:
    for encoder in (Pyramid((3, 33, 48), width=8), ResNet50((3, 33, 48))):
        *skips, context = encoder.eval()(torch.randn(1, 3, 33, 48))
        decoder = Decoder(encoder.widths[-1], encoder.widths[:-1], num_classes=5)
        assert decoder(context, skips, (33, 48)).shape == (1, 5, 33, 48)


def test_logits_by_hand() -> None:
    """One level: upsample(1×1 context) beside the skip, 3×3, normalise, relu, 1×1, upsample."""
    decoder = Decoder(3, (2,), num_classes=4)
    context, skip = torch.randn(2, 3, 2, 2), torch.randn(2, 2, 4, 4)
    convolution, norm, _ = decoder.join[0]
    enlarged = functional.interpolate(context, scale_factor=2, mode="bilinear", align_corners=False)
    narrowed = torch.einsum("oc,nchw->nohw", decoder.narrow[0].weight.flatten(1), enlarged)
    narrowed = narrowed + decoder.narrow[0].bias[:, None, None]
    y = functional.conv2d(torch.cat([narrowed, skip], dim=1), convolution.weight, padding=1)
    y = functional.group_norm(y, norm.num_groups).clamp(min=0)
    logits = torch.einsum("oc,nchw->nohw", decoder.classifier.weight.flatten(1), y)
    logits = logits + decoder.classifier.bias[:, None, None]
    torch.testing.assert_close(decoder(context, [skip], (4, 4)), logits, rtol=1e-4, atol=1e-5)
    logits = functional.interpolate(logits, size=(8, 8), mode="bilinear", align_corners=False)
    torch.testing.assert_close(decoder(context, [skip], (8, 8)), logits, rtol=1e-4, atol=1e-5)


def test_gradients_reach_everything() -> None:
    decoder = Decoder(12, (4, 8), num_classes=3)
    context, skips = maps()
    inputs = [tensor.requires_grad_() for tensor in (context, *skips)]
    (decoder(context, skips, (9, 14)) * torch.randn(2, 3, 9, 14)).sum().backward()
    for tensor in (*inputs, *decoder.parameters()):
        assert tensor.grad is not None
        assert tensor.grad.abs().max() > 0


def test_a_map_does_not_see_the_others() -> None:
    decoder = Decoder(12, (4, 8), num_classes=3).train()
    context, skips = maps(3)
    alone = [decoder(context[i : i + 1], [skip[i : i + 1] for skip in skips], (9, 14)) for i in range(3)]
    torch.testing.assert_close(decoder(context, skips, (9, 14)), torch.cat(alone), rtol=1e-4, atol=1e-5)


def test_bf16_and_channels_last() -> None:
    decoder = Decoder(12, (4, 8), num_classes=3)
    context, skips = maps()
    exact = decoder(context, skips, (9, 14))
    last = [tensor.to(memory_format=torch.channels_last) for tensor in (context, *skips)]
    torch.testing.assert_close(decoder(last[0], last[1:], (9, 14)), exact, rtol=1e-4, atol=1e-5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = decoder(context, skips, (9, 14)).float()
    assert (rough - exact).norm() < 0.05 * exact.norm()


def test_other_skips_are_refused() -> None:
    context, skips = maps()
    message = "the decoder joins skips of [4, 8] channels; got maps [[2, 8, 5, 7], [2, 4, 9, 14]]"
    with pytest.raises(ValueError, match=re.escape(message)):
        Decoder(12, (4, 8), num_classes=3)(context, skips[::-1], (9, 14))
