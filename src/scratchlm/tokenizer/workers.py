"""Work on a long file by several processes, in order and in bounded memory."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from scratchlm.errors import WorkerError

Item = TypeVar("Item")
Result = TypeVar("Result")

SMALL_BYTES = 4_000_000  # below this, starting workers costs more than it gives

_function: Callable[[Any], Any]  # what a worker applies to its items, set as it starts


def workers_for(size: int, num_workers: int | None) -> int:
    """How many processes to use on `size` bytes: at most `num_workers`, one for a small file."""
    if num_workers is not None and num_workers < 1:
        raise ValueError(f"num_workers must be at least 1 ({num_workers}); leave it out for all")
    if size < SMALL_BYTES:
        return 1
    if num_workers is not None:
        return num_workers
    if hasattr(os, "sched_getaffinity"):  # the cores this process may use, where that is known
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def parallel_map(
    function: Callable[[Item], Result], items: Iterable[Item], num_workers: int
) -> Iterator[Result]:
    """`map(function, items)` in order, by worker processes, with few items in flight at a time.

    Workers are forked on Linux: they import nothing, neither torch nor the caller's script, and
    get `function` for free. On Windows and macOS they are spawned, and import the caller's script.
    A worker that dies raises WorkerError instead of hanging.
    """
    if num_workers == 1:
        yield from map(function, items)
        return
    forked = sys.platform == "linux"
    context = multiprocessing.get_context("fork" if forked else "spawn")
    pool = ProcessPoolExecutor(num_workers, context, _start_worker, (function,))
    in_flight: deque[Future[Result]] = deque()
    try:
        for item in items:
            in_flight.append(pool.submit(_work, item))
            if len(in_flight) > 2 * num_workers:
                yield in_flight.popleft().result()
        while in_flight:
            yield in_flight.popleft().result()
    except BrokenProcessPool:
        guard = "" if forked else ', and let a script work below `if __name__ == "__main__":` only'
        raise WorkerError(
            f"a worker process died (one of {num_workers}), most often for want of memory; "
            f"use fewer, with num_workers{guard}"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker(function: Callable[[Any], Any]) -> None:
    # Ctrl-C reaches the whole group; the parent answers it and winds its workers up.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    global _function
    _function = function


def _end_with_parent() -> None:
    """A killed parent sends no word, and its workers would wait for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _work(item: Any) -> Any:
    return _function(item)
