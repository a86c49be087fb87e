from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from scratchlm.training.peak_memory import peak_memory


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="Linux keeps it there")
def test_the_peak_of_a_process_is_in_bytes():
    """The peak is at least the resident memory, counted in another way, and far below a thousand
    times that."""
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
    resident = pages * os.sysconf("SC_PAGE_SIZE")
    peak = peak_memory(torch.device("cpu"))
    assert 0.95 * resident <= peak < 50 * resident


def test_the_peak_of_a_process_has_the_unit_of_its_system(monkeypatch):
    resource = pytest.importorskip("resource")
    monkeypatch.setattr(resource, "getrusage", lambda who: SimpleNamespace(ru_maxrss=7))
    for system, peak in {"linux": 7 * 1024, "darwin": 7, "win32": None}.items():
        monkeypatch.setattr("sys.platform", system)
        assert peak_memory(torch.device("cpu")) == peak
    assert peak_memory(torch.device("mps")) is None


@pytest.mark.gpu
def test_the_peak_of_a_gpu_is_that_of_its_tensors():
    device = torch.device("cuda")
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    x = torch.empty(1 << 20, dtype=torch.uint8, device=device)
    del x
    assert peak_memory(device) == before + (1 << 20)
