"""Loading ahead: the next step's batches are read while the present one computes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


@contextlib.contextmanager
def loaded_ahead(load: Callable[[int], T], last: Callable[[], int]) -> Iterator[Callable[[int], T]]:
    """Give `load`, but when a caller asks for step i, a thread already loads step i + 1.

    No step after `last()` is loaded ahead. An error in `load` is raised when its step is asked for.
    """
    ahead: dict[int, Future[T]] = {}
    with ThreadPoolExecutor(1, thread_name_prefix="batches") as thread:

        def get(step: int) -> T:
            found = ahead.pop(step).result() if step in ahead else load(step)
            ahead.clear()  # of a step that was not asked for
            if step < last():
                ahead[step + 1] = thread.submit(load, step + 1)
            return found

        yield get
