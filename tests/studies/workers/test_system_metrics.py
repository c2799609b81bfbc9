"""What a run takes of its machine."""

from __future__ import annotations

import time

import numpy as np
import psutil
import pytest
import torch

from dmr.studies.workers import system_metrics
from dmr.studies.workers.system_metrics import SystemMonitor


def test_a_process_that_computes_is_seen_and_samples_are_not_too_near(monkeypatch: pytest.MonkeyPatch) -> None:
    monitor = SystemMonitor(torch.device("cpu"))
    assert monitor.sample() == {}
    monkeypatch.setattr(system_metrics, "SECONDS_BETWEEN", 0.0)
    held = np.ones(30_000_000)  # 240 MB
    busy_until = time.process_time() + 0.2
    started = time.monotonic()
    while time.process_time() < busy_until:
        pass
    share = 100 * 0.2 / (time.monotonic() - started)
    found = monitor.sample()
    assert found["system/process_cpu_utilization_percentage"] == pytest.approx(share, rel=0.5)
    assert held.nbytes / 1e6 < found["system/process_memory_usage_megabytes"] < psutil.virtual_memory().total / 1e6
    assert 0 <= found["system/cpu_utilization_percentage"] <= 100
    assert 0 < found["system/system_memory_usage_percentage"] <= 100
    assert not any("gpu" in name for name in found)


def test_a_card_that_does_not_tell_how_busy_it_is_ends_no_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    def not_supported(device: torch.device) -> int:
        raise RuntimeError("NVMLError_NotSupported")

    monkeypatch.setattr(system_metrics, "SECONDS_BETWEEN", 0.0)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: None)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 3_000_000)
    monkeypatch.setattr(torch.cuda, "utilization", not_supported)
    found = SystemMonitor(torch.device("cuda")).sample()
    assert found["system/process_gpu_memory_usage_megabytes"] == 3
    assert "system/gpu_utilization_percentage" not in found
