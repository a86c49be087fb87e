"""Measure the memory that a training step allocates."""

from __future__ import annotations

from collections.abc import Callable

from torch.profiler import ProfilerActivity, profile


def peak_bytes(job: Callable[[], object]) -> int:
    """Return the bytes that a step allocates, by the profiler of torch's allocator.

    The process's memory would include the compiler's own, which is no part of a step. The profiler
    does not see older memory, such as the weights and the state of the optimizer.
    """
    for _ in range(2):
        job()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        job()
    assert profiled.profiler is not None
    events = [e for e in profiled.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak
