"""The peak memory of a run."""

from __future__ import annotations

import sys

import torch


def peak_memory(device: torch.device) -> int | None:
    """Return the peak memory so far in bytes, or None if the system records no peak (MPS, Windows).

    On CUDA it is the peak of all tensors on the device since `torch.cuda` last reset its
    statistics. On a CPU it is the peak of the whole process.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if device.type != "cpu" or sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak  # macOS: bytes, Linux: KiB
