"""Write checkpoints in a thread while training continues. The thread writes a copy of the state."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

from scratchlm.files.plain_values import map_tensors


def snapshot(value: Any) -> Any:
    """Return a copy of plain data with its tensors on the CPU.

    Tied weights get one common copy, so the copies are tied too. Copies from a GPU are
    asynchronous; the function synchronizes the GPU once, at the end.
    """
    copies: dict[tuple[Any, ...], Tensor] = {}

    def copied(each: Tensor) -> Tensor:
        each = each.detach()
        place = (each.device, each.data_ptr(), each.shape, each.stride(), each.dtype)
        if each.numel() == 0 or place not in copies:
            new = each.clone() if each.device.type == "cpu" else _to_cpu(each)
            if each.numel() == 0:
                return new
            copies[place] = new
        return copies[place]

    taken = map_tensors(value, copied)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return taken


def _to_cpu(tensor: Tensor) -> Tensor:
    pinned = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.device.type == "cuda")
    return pinned.copy_(tensor, non_blocking=True)


class CheckpointWriter:
    """Run one write at a time in a thread. `wait` raises its error, `failure` returns the error."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._under_way: Future[None] | None = None

    def submit(self, write: Callable[[], None]) -> None:
        assert self._under_way is None, "call wait or failure before the next submit"
        self._under_way = self._thread.submit(write)

    def wait(self) -> None:
        done, self._under_way = self._under_way, None
        if done is not None:
            done.result()

    def failure(self) -> Exception | None:
        """Wait for the last write and return its error or None. A second call returns None."""
        try:
            self.wait()
        except Exception as error:
            return error
        return None

    def failed(self, wait: bool) -> bool:
        """Return whether the last write failed. wait: True waits for the end of the write first."""
        write = self._under_way
        return write is not None and (wait or write.done()) and write.exception() is not None

    def finish(self) -> None:
        """Wait for the last write, ignore its error, and accept no more writes."""
        self._thread.shutdown()
