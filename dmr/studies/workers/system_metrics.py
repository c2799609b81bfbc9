"""What a training run takes of its machine, measured in the run's own process at the end of an epoch.

MLflow's own monitor writes from a thread of the process it watches, and watches the whole machine with every GPU of it;
here only the driver writes. Names that MLflow's monitor has as well mean the same; its page `System metrics` shows
everything that begins with `system/`.
"""

from __future__ import annotations

import time
from contextlib import suppress

import psutil
import torch

SECONDS_BETWEEN = 1.0  # epochs that are shorter share a sample
MEGABYTE = 1e6


class SystemMonitor:
    """Measures a run that begins now.

    Shares of the processor are means since the last sample, and 100 % of the process is one core. Memory is that of the
    moment; of the GPU, the most that this process had allocated since the run began.
    """

    def __init__(self, device: torch.device) -> None:
        self.device, self.process = device, psutil.Process()
        self.process.cpu_percent()
        psutil.cpu_percent()
        self.sampled = time.monotonic()
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)

    def sample(self) -> dict[str, float]:
        """What there is to record; nothing where the last sample is too new."""
        if time.monotonic() - self.sampled < SECONDS_BETWEEN:
            return {}
        self.sampled = time.monotonic()
        memory = psutil.virtual_memory()
        found = {
            "process_cpu_utilization_percentage": self.process.cpu_percent(),
            "process_memory_usage_megabytes": self.process.memory_info().rss / MEGABYTE,
            "cpu_utilization_percentage": psutil.cpu_percent(),
            "system_memory_usage_megabytes": memory.used / MEGABYTE,
            "system_memory_usage_percentage": 100.0 * memory.used / memory.total,
        }
        if self.device.type == "cuda":
            found["process_gpu_memory_usage_megabytes"] = torch.cuda.max_memory_allocated(self.device) / MEGABYTE
            with suppress(Exception):  # NVML is not installed, or does not tell this, as of a part of a card (MIG)
                found["gpu_utilization_percentage"] = float(torch.cuda.utilization(self.device))
        return {f"system/{name}": value for name, value in found.items()}
