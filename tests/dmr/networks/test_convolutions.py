"""Which kernels train convolutions on which processor."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from dmr.networks.convolutions import sound_convolutions


@pytest.fixture
def fast_kernels() -> Iterator[None]:
    """oneDNN is on, as it is in a process of torch's."""
    before = torch.backends.mkldnn.enabled
    torch.backends.mkldnn.set_flags(True)
    yield
    torch.backends.mkldnn.set_flags(before)


@pytest.mark.parametrize(
    ("capability", "device", "used"),
    [("AVX2", "cpu", False), ("DEFAULT", "cpu", False), ("AVX512", "cpu", True), ("AVX2", "cuda", True)],
)
def test_onednn_is_off_where_its_gradients_are_faulty(
    capability: str, device: str, used: bool, fast_kernels: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    with sound_convolutions(torch.device(device)):
        assert torch.backends.mkldnn.enabled is used
    assert torch.backends.mkldnn.enabled
