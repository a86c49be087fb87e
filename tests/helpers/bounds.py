"""Limits for reading a file: seconds, address space, memory in use."""

from __future__ import annotations

import resource
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


class Hang(BaseException):
    """A BaseException, because the code under test may treat an Exception as a damaged file."""


@contextmanager
def bounded(seconds: float = 20, address_space: int = 2 << 30) -> Iterator[None]:
    """Raise Hang after so many seconds. An allocation of more address space fails."""

    def hang(*_: object) -> None:
        raise Hang

    limits = resource.getrlimit(resource.RLIMIT_AS)
    before = signal.signal(signal.SIGALRM, hang)
    if sys.platform == "linux":
        pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[0])
        most = pages * resource.getpagesize() + address_space
        resource.setrlimit(resource.RLIMIT_AS, (most, limits[1]))
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        resource.setrlimit(resource.RLIMIT_AS, limits)


@contextmanager
def touching_at_most(num_bytes: int) -> Iterator[None]:
    """Fail if the peak memory of the process increases by more than this in the block."""
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("needs /proc/self/clear_refs, of Linux")
    # Forget the largest size so far.
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    before = _largest()
    yield
    assert _largest() - before < num_bytes


def _largest() -> int:
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.split("VmHWM:")[1].split()[0]) * 1024
