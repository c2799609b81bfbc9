from __future__ import annotations

from typing import Literal

import pytest
import torch

from dmr.encoders.frames import Frames


@pytest.mark.parametrize("frame", ["small", "resnet18"])
def test_the_mean_of_the_frames(frame: Literal["small", "resnet18"]) -> None:
    encoder = Frames((4, 3, 32, 32), frame=frame, width=16).eval()
    x = torch.randn(2, 4, 3, 32, 32)
    expected = sum(encoder.frame(x[:, t])[0] for t in range(4)) / 4
    torch.testing.assert_close(encoder(x)[0], expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(encoder(x.flip(1))[0], expected, rtol=1e-4, atol=1e-5)
