"""Measure the memory of a process and its children on Linux."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path


def proportional_memory(pid: int) -> int:
    """Return the bytes of a process and its children. They share the bytes of a common page."""
    total = 0
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8").splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1]) * 1024
        for task in Path(f"/proc/{pid}/task").iterdir():
            total += sum(
                map(proportional_memory, map(int, (task / "children").read_text().split()))
            )
    except (OSError, ProcessLookupError):  # the process has ended meanwhile
        pass
    return total


def peak_of(command: list[str]) -> tuple[int, float]:
    """Run a command. Return the peak memory of all its processes, and its time in seconds."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    peak = 0
    while process.poll() is None:
        peak = max(peak, proportional_memory(process.pid))
        time.sleep(0.1)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return peak, time.perf_counter() - start


def growth_of(job: Callable[[], object], pid: int) -> int:
    """Return the bytes by which this process grows during the job."""
    before = proportional_memory(pid)
    peak, running = before, True

    def watch() -> None:
        nonlocal peak
        while running:
            peak = max(peak, proportional_memory(pid))
            time.sleep(0.1)

    watcher = threading.Thread(target=watch)
    watcher.start()
    job()
    running = False
    watcher.join()
    return peak - before
