"""Device, dtype, threads, random state and signals: the surroundings of a model.

The code in `model/` does not depend on this module. The trainer and the commands call the functions
once, at the start.
"""

from __future__ import annotations

import contextlib
import functools
import os
import random
import shutil
import signal
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from types import FrameType
from typing import Any, Literal

import numpy as np
import torch
import torch.utils.checkpoint
from torch import nn

from scratchlm.devices.runtime_config import Dtype


def resolve_device(name: str, local_rank: int | None = None) -> torch.device:
    """Return the device called `name`; "auto" picks CUDA, then MPS, then the CPU. local_rank: this
    process's number on the machine, which selects its CUDA device."""
    if local_rank is not None and torch.cuda.is_available() and name in ("auto", "cuda"):
        name = f"cuda:{local_rank}"
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(
            f"there is no such device ({name}); choose auto, cpu, cuda, cuda:N or mps"
        ) from None
    missing = {
        "cuda": not torch.cuda.is_available(),
        "mps": not torch.backends.mps.is_available(),
    }.get(device.type, device.type != "cpu")
    if missing:
        raise ValueError(
            f"this machine does not have the device ({name}); use --device cpu or --device auto"
        )
    if device.type == "cpu" and device.index is not None:
        raise ValueError(
            f"the CPU has no numbered devices ({name}); use cpu, and set the number of threads "
            "with runtime.threads"
        )
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise ValueError(
            f"there is no such CUDA device ({name}); choose one from cuda:0 to cuda:{count - 1}"
        )
    return device


def resolve_dtype(name: Dtype, device: torch.device) -> torch.dtype:
    """Return the dtype of matrix products. "auto" is bfloat16 only if the hardware multiplies it
    natively, so "auto" is never slower than float32. With fp8, the dtype is bfloat16, because only
    some layers multiply 8-bit factors."""
    match name:
        case "auto":
            return torch.bfloat16 if _native_bfloat16(device) else torch.float32
        case "bfloat16":
            return torch.bfloat16
        case "float16":
            return torch.float16
        case "float32":
            return torch.float32
        case "tf32":
            if device.type != "cuda":
                raise ValueError(f"tf32 needs a CUDA device ({device}); choose float32")
            torch.set_float32_matmul_precision("high")
            return torch.float32
        case "fp8":
            check_capability("fp8", device, (8, 9), "choose --dtype bfloat16")
            return torch.bfloat16


def check_capability(
    feature: str, device: torch.device, least: tuple[int, int], remedy: str
) -> None:
    """Raise ValueError if the device is no NVIDIA GPU of at least this compute capability."""
    rule = f"{feature} needs an NVIDIA GPU of compute capability {least[0]}.{least[1]} or higher"
    if device.type != "cuda" or torch.version.hip is not None:
        raise ValueError(f"{rule} ({device}); {remedy}")
    major, minor = torch.cuda.get_device_capability(device)
    if (major, minor) < least:
        raise ValueError(f"{rule} ({device} has {major}.{minor}); {remedy}")


def resolve_compile(
    name: Literal["auto", "on", "off"], device: torch.device, flops: float
) -> tuple[bool, str]:
    """Return whether to compile, and why. flops: the FLOPs of the whole run, forward and
    backward."""
    if name != "auto":
        return name == "on", f"{name}: runtime.compile is {name}"
    if device.type == "cuda":
        if torch.cuda.get_device_capability(device) < (7, 0):
            return False, "off: Triton needs a GPU of compute capability 7.0 or higher"
        return True, "on: this is a CUDA device"
    if device.type != "cpu":
        return False, f"off: compilation is not tested on {device.type}"
    compilers = ("cl",) if sys.platform == "win32" else ("g++", "clang++")
    if not any(map(shutil.which, (os.environ.get("CXX", compilers[0]), *compilers[1:]))):
        return False, f"off: there is no C++ compiler ({', '.join(compilers)})"
    if flops < _COMPILE_PAYS_FROM:
        return (
            False,
            f"off: compilation costs more time than it saves in a short run ({flops:.1e} FLOP)",
        )
    return True, f"on: compilation saves time in a long run ({flops:.1e} FLOP)"


CPU_SPEED = 1e11  # FLOP/s of two cores, roughly
# On two cores, compiling takes half a minute and saves a fifth of the time.
_COMPILE_PAYS_FROM = 200 * CPU_SPEED


def _native_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu":
        # torch 2.11 made this public. With an older torch, "auto" is float32 on a CPU.
        capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
        return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
    return False


def recompute_activations(blocks: Iterable[nn.Module]) -> None:
    """Make each block keep only its input. Backward then recomputes the other activations (arXiv
    1604.06174)."""
    for block in blocks:
        block.forward = functools.partial(
            torch.utils.checkpoint.checkpoint, block.forward, use_reentrant=False
        )


def compile_blocks(blocks: Iterable[nn.Module]) -> None:
    """Compile the blocks in place by torch.compile, for constant shapes. All blocks use the same
    compilation. torch compiles at the first call, and once more for evaluation."""
    for block in blocks:
        block.compile(dynamic=False)


def autocast(device: torch.device, dtype: torch.dtype) -> contextlib.AbstractContextManager[Any]:
    """Return a context that computes matrix products in `dtype`; for float32 it does nothing."""
    if dtype == torch.float32:
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=dtype)


def seed_everything(seed: int) -> None:
    """Seed every global random generator that `rng_state` reads."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def rng_state() -> dict[str, Any]:
    """Return the global random state that training may use, as tensors and plain values."""
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
    """Restore the state that `rng_state` returned."""
    random.setstate(state["python"])
    keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state(("MT19937", keys.numpy().astype(np.uint32), position, has_gauss, cached))
    torch.set_rng_state(state["torch"].cpu())
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state_all([each.cpu() for each in state["cuda"]])


@contextlib.contextmanager
def deferred_signals() -> Iterator[Sequence[int]]:
    """Record the first SIGINT or SIGTERM, so that the training loop can react between two steps. A
    second signal acts at once."""
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
