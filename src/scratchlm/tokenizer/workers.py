"""Process a long file with several processes, in order and in bounded memory."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from scratchlm.errors import WorkerError

Item = TypeVar("Item")
Result = TypeVar("Result")

SMALL_BYTES = 4_000_000  # for fewer bytes, starting workers costs more time than it saves

_function: Callable[[Any], Any]  # each worker sets it when it starts


def workers_for(size: int, num_workers: int | None) -> int:
    """Return the number of processes for `size` bytes: `num_workers`, but 1 for a small file."""
    if num_workers is not None and num_workers < 1:
        raise ValueError(
            f"num_workers must be at least 1 ({num_workers}); omit num_workers to use all cores"
        )
    if size < SMALL_BYTES:
        return 1
    if num_workers is not None:
        return num_workers
    if hasattr(os, "sched_getaffinity"):  # the cores that this process may use
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def parallel_map(
    function: Callable[[Item], Result], items: Iterable[Item], num_workers: int
) -> Generator[Result, None, None]:
    """Yield `map(function, items)` in order, from worker processes, with few items in flight.

    Linux forks the workers. Forked workers import nothing, neither torch nor the caller's script,
    and get `function` at no cost. Windows and macOS spawn the workers, and spawned workers import
    the caller's script. If a worker dies, raise WorkerError instead of waiting forever.
    """
    if num_workers == 1:
        yield from map(function, items)
        return
    forked = sys.platform == "linux"
    context = multiprocessing.get_context("fork" if forked else "spawn")
    pool = ProcessPoolExecutor(num_workers, context, _start_worker, (function,))
    in_flight: deque[Future[Result]] = deque()
    try:
        pool.submit(_nothing)  # fork before the first item, which the workers would keep in memory
        for item in items:
            in_flight.append(pool.submit(_work, item))
            if len(in_flight) > 2 * num_workers:
                yield in_flight.popleft().result()
        while in_flight:
            yield in_flight.popleft().result()
    except BrokenProcessPool:
        guard = "" if forked else ', and put your code below `if __name__ == "__main__":`'
        raise WorkerError(
            f"a worker process died (one of {num_workers}), probably because the memory was full; "
            f"decrease num_workers{guard}"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker(function: Callable[[Any], Any]) -> None:
    # Ctrl-C reaches the parent and all workers. Only the parent handles it and stops the workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    global _function
    _function = function


def _end_with_parent() -> None:
    """Exit when the parent ends. A killed parent sends no signal. The worker would wait forever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _nothing() -> None:
    pass


def _work(item: Any) -> Any:
    return _function(item)
