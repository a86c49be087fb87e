"""Load the next step's batches while the current step computes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


@contextlib.contextmanager
def loaded_ahead(load: Callable[[int], T], last: Callable[[], int]) -> Iterator[Callable[[int], T]]:
    """Yield a function that returns `load(step)`. When a caller requests step i, a thread starts to
    load step i + 1.

    The thread loads no step after `last()`. If `load` raises an error, the function raises the
    error when a caller requests that step.
    """
    ahead: dict[int, Future[T]] = {}
    with ThreadPoolExecutor(1, thread_name_prefix="batches") as thread:

        def get(step: int) -> T:
            found = ahead.pop(step).result() if step in ahead else load(step)
            ahead.clear()  # drop a step that no caller requested
            if step < last():
                ahead[step + 1] = thread.submit(load, step + 1)
            return found

        yield get
