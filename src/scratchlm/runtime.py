"""Device, dtype, threads, random state and signals: what surrounds a model.

Nothing in `model/` knows of these; the trainer and the commands ask here once, at start.
"""

from __future__ import annotations

import contextlib
import random
import signal
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Any, Literal

import numpy as np
import torch


@dataclass(frozen=True)
class RuntimeConfig:
    """`device`: auto, cpu, cuda, cuda:1, mps. `dtype`: that of the matrix products (weights stay
    float32); auto is bfloat16 where the hardware multiplies it natively. `threads`: 0 is torch's
    own choice."""

    device: str = "auto"
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    threads: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.threads <= 4096:
            raise ValueError(
                f"runtime.threads is from 0 to 4096 ({self.threads}); 0 lets torch choose"
            )


def resolve_device(name: str) -> torch.device:
    """The device called `name`; "auto" picks CUDA, then MPS, then the CPU."""
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(
            f"no such device ({name}); choose auto, cpu, cuda, cuda:N or mps"
        ) from None
    missing = {
        "cuda": not torch.cuda.is_available(),
        "mps": not torch.backends.mps.is_available(),
    }.get(device.type, device.type != "cpu")
    if missing:
        raise ValueError(f"this device is not available here ({name}); use --device cpu or auto")
    if device.type == "cpu" and device.index is not None:
        raise ValueError(f"the CPU has no numbered devices ({name}); use cpu, and runtime.threads")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise ValueError(f"no such CUDA device ({name}); there are {count}, counted from cuda:0")
    return device


def resolve_dtype(name: str, device: torch.device) -> torch.dtype:
    """The dtype of matrix products; "auto" is bfloat16 only where it is native, so never slower."""
    if name == "float32":
        return torch.float32
    if name == "bfloat16":
        return torch.bfloat16
    return torch.bfloat16 if _native_bfloat16(device) else torch.float32


def _native_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu":
        # Public from torch 2.11; before it "auto" is float32 on a CPU, and bfloat16 is by request.
        capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
        return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
    return False


def autocast(device: torch.device, dtype: torch.dtype) -> contextlib.AbstractContextManager[Any]:
    """Matrix products in `dtype`; nothing at all for float32."""
    if dtype == torch.float32:
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=dtype)


def rng_state() -> dict[str, Any]:
    """Every global random generator a training step may draw from, as tensors and plain values."""
    _, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    state: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": [torch.from_numpy(np.asarray(keys).astype(np.int64)), position, has_gauss, cached],
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def set_rng_state(state: dict[str, Any]) -> None:
    """Back to what `rng_state` saw."""
    random.setstate(state["python"])
    keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state(("MT19937", keys.numpy().astype(np.uint32), position, has_gauss, cached))
    torch.set_rng_state(state["torch"].cpu())
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state_all([each.cpu() for each in state["cuda"]])


@contextlib.contextmanager
def deferred_signals() -> Iterator[Sequence[int]]:
    """SIGINT and SIGTERM are noted, for the loop to act on between steps; a second is not."""
    noted: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield noted  # only the main thread can handle signals
        return
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def note(number: int, frame: FrameType | None) -> None:
        noted.append(number)
        for each, handler in kept.items():
            signal.signal(each, handler)

    for number in kept:
        signal.signal(number, note)
    try:
        yield noted
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
