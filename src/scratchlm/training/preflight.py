"""Checks before training: can the run write its folder, and do disk and memory suffice?"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

from scratchlm.costs.model_costs import TrainingMemory, size_text
from scratchlm.training.trainer_config import TrainerConfig


def check_room(
    needed: TrainingMemory,
    train: TrainerConfig,
    out: Path,
    device: torch.device,
    say: Callable[[str], None],
    *,
    memory: int | None,
    shards: int = 1,
    beside: int = 1,
) -> None:
    """Check the disk and the memory of a run. `say` prints a warning if either may become full.

    memory: the device's bytes (see `memory_of`); None skips the check of memory. shards: ranks that
    divide weights, gradients and optimizer. beside: ranks on this machine, which divide a CPU's
    memory. Raise OSError if the run cannot write its folder, or if two checkpoints do not fit there
    (the run keeps the last checkpoint while it writes the next). Raise MemoryError if weights,
    gradients and optimizer alone do not fit.
    """
    _check_writable(out)
    _check_disk(out, needed.weights + needed.optimizer, train, say)
    if memory is not None:
        _check_memory(needed, memory, shards, beside, device, say)


def _check_writable(out: Path) -> None:
    place = _existing(out)
    if not place.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, "not a directory", str(place))
    with tempfile.TemporaryFile(dir=place):
        pass


def _check_disk(out: Path, size: int, train: TrainerConfig, say: Callable[[str], None]) -> None:
    assert train.iterations is not None
    saves = 1 + train.iterations // train.save_every if train.save_every else 1
    kept = min(saves, train.keep_last) if train.keep_last else saves
    free = shutil.disk_usage(_existing(out)).free
    if free < 2 * size:
        raise OSError(
            errno.ENOSPC,
            f"no space for two checkpoints of {size_text(size)} ({size_text(free)} are free)",
            str(out),
        )
    wanted = (kept + 2) * size  # 2: the best, and the one that the run is writing
    if free < wanted:
        say(
            f"the disk may become full: checkpoints need up to {size_text(wanted)}, and {out} has "
            f"{size_text(free)} free; reduce train.keep_last, or save less often"
        )


def _check_memory(
    needed: TrainingMemory,
    have: int,
    shards: int,
    beside: int,
    device: torch.device,
    say: Callable[[str], None],
) -> None:
    if device.type == "cpu":
        have //= beside
    fixed = needed.fixed // shards
    if fixed > have:
        raise MemoryError(
            f"the model does not fit ({size_text(fixed)} of weights, gradients and optimizer, "
            f"{size_text(have)} of memory on {device}); choose a smaller model, or "
            "--runtime.parallel fsdp on several devices"
        )
    peak = fixed + needed.peak - shards * fixed
    if peak > have:
        say(
            f"memory may run out: a step needs about {size_text(peak)}, and {device} has "
            f"{size_text(have)}; reduce --batch_size and increase --accumulate"
        )


def memory_of(
    device: torch.device,
    cgroup: Path = Path("/proc/self/cgroup"),
    root: Path = Path("/sys/fs/cgroup"),
) -> int | None:
    """Return the bytes of memory, or None if the system does not report them.

    Other processes may use a part of this memory. For the CPU, the limits of this process's control
    groups count too: the file `cgroup` lists the groups, and `root` has their folders.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    if sys.platform == "win32":
        return None
    try:
        physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return None
    return min([physical, *_limits(cgroup, root)])


def _limits(cgroup: Path, root: Path) -> list[int]:
    """Return the memory limits in bytes of this process's control groups (cgroups(7)).

    Containers and SLURM set such limits. The list has the limits of both cgroup versions, for each
    group and its parents.
    """
    found = []
    with contextlib.suppress(OSError):
        for line in cgroup.read_text(encoding="utf-8").splitlines():
            _, controllers, group = line.split(":", 2)
            if controllers and "memory" not in controllers.split(","):
                continue
            top, name = (
                (root / "memory", "memory.limit_in_bytes") if controllers else (root, "memory.max")
            )
            place = top / group.strip("/")
            for each in [place, *place.parents][: len(place.parts) - len(top.parts) + 1]:
                with contextlib.suppress(OSError, ValueError):  # no such file, or "max"
                    found.append(int((each / name).read_text(encoding="utf-8")))
    return found


def _existing(path: Path) -> Path:
    """Return the path, or its nearest parent that exists."""
    while not path.exists():
        path = path.parent
    return path
