"""Checkpoints written beside the training: copied before the next step, written by a thread."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor


def snapshot(value: Any) -> Any:
    """A copy of plain data with its tensors on the CPU; one storage, one copy.

    Tied weights stay tied, and copies from an accelerator wait for each other only at the end.
    """
    copies: dict[tuple[Any, ...], Tensor] = {}

    def copied(each: Any) -> Any:
        if isinstance(each, Tensor):
            each = each.detach()
            place = (each.device, each.data_ptr(), each.shape, each.stride(), each.dtype)
            if each.numel() == 0 or place not in copies:
                new = each.clone() if each.device.type == "cpu" else _to_cpu(each)
                if each.numel() == 0:
                    return new
                copies[place] = new
            return copies[place]
        if isinstance(each, dict):
            return {key: copied(item) for key, item in each.items()}
        if isinstance(each, list | tuple):
            return type(each)(copied(item) for item in each)
        return each

    taken = copied(value)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return taken


def _to_cpu(tensor: Tensor) -> Tensor:
    pinned = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.device.type == "cuda")
    return pinned.copy_(tensor, non_blocking=True)


class CheckpointWriter:
    """One write at a time, in a thread; `wait` raises what it raised, `failure` returns it."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._under_way: Future[None] | None = None

    def submit(self, write: Callable[[], None]) -> None:
        assert self._under_way is None, "wait for the last one, and hear how it ended"
        self._under_way = self._thread.submit(write)

    def wait(self) -> None:
        done, self._under_way = self._under_way, None
        if done is not None:
            done.result()

    def failure(self) -> Exception | None:
        """What the last write raised, once it has ended; it is told once."""
        try:
            self.wait()
        except Exception as error:
            return error
        return None

    def failed(self, wait: bool) -> bool:
        """Whether the last write failed: in the end, or already."""
        write = self._under_way
        return write is not None and (wait or write.done()) and write.exception() is not None

    def finish(self) -> None:
        """Wait without asking how it ended, and take no more."""
        self._thread.shutdown()
