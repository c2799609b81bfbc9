"""From a fused context map and fused skips to a class per pixel.

Letters: N maps (of any combinations and samples), Z channels of the context, C_l channels of level l, H height, W width
of the labels, h, w of the context.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from dmr.networks.layers import group_norm

WIDEST = 256


class Decoder(nn.Module):
    """Enlarges the context level by level; at each level the skip is joined on and one 3×3 convolution follows.

    A level has as many channels as its skip, but no more than what it enlarges and 256; a 1×1 convolution brings them
    down before they are enlarged, where that costs least.
    """

    def __init__(self, context_width: int, skip_widths: tuple[int, ...], num_classes: int) -> None:
        super().__init__()
        self.skip_widths = skip_widths
        self.narrow, self.join = nn.ModuleList(), nn.ModuleList()  # coarsest level first
        width = context_width
        for skip in reversed(skip_widths):
            outputs = min(width, skip, WIDEST)
            convolution = nn.Conv2d(outputs + skip, outputs, 3, padding=1, bias=False)
            self.narrow.append(nn.Conv2d(width, outputs, 1))
            self.join.append(nn.Sequential(convolution, group_norm(outputs), nn.ReLU()))
            width = outputs
        self.classifier = nn.Conv2d(width, num_classes, 1)

    def forward(self, context: Tensor, skips: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        """Logits (N, classes, H, W).

        Args:
            context: (N, Z, h, w).
            skips: (N, C_l, H_l, W_l) each, finest first.
            size: (H, W).

        Raises:
            ValueError: the skips are not of the channels declared.
        """
        if tuple(skip.shape[1] for skip in skips) != self.skip_widths:
            raise ValueError(
                f"the decoder joins skips of {list(self.skip_widths)} channels; "
                f"got maps {[list(skip.shape) for skip in skips]}"
            )
        x = context
        for narrow, join, skip in zip(self.narrow, self.join, reversed(skips), strict=True):
            x = join(torch.cat([_resized(narrow(x), skip.shape[-2:]), skip], dim=1))
        return _resized(self.classifier(x), size)


def _resized(x: Tensor, size: Sequence[int]) -> Tensor:
    height, width = size
    if x.shape[-2:] == (height, width):
        return x
    return functional.interpolate(x, size=(height, width), mode="bilinear", align_corners=False)
