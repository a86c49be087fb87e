"""The sizes of blocks for flash attention: a table by GPU, kernel and width of a head.

A choice by timing at run time would change bits between runs, and a resumed run would not equal an
uninterrupted run. So the sizes for a GPU are fixed. `scripts/tune_flash.py` measures them on a GPU
and writes its rows of the table. docs/kernels.md shows what each row compiles to.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch

Kernel = Literal["forward", "grad_q", "grad_kv"]


class Blocks(NamedTuple):
    """A program works on `queries` × `keys` scores at a time, with `warps` of 32 threads. It loads
    the next `stages` − 1 blocks while it computes."""

    queries: int
    keys: int
    warps: int
    stages: int


# 8.6 has the smallest shared memory of all GPUs from 8.0 on (99 KB), so its rows fit each of them.
# Registers and spills decided about the rows of 8.0, 8.6 and 9.0, not time: they were not measured.
TABLE: dict[tuple[str, Kernel, int], Blocks] = {
    ("8.0", "forward", 64): Blocks(128, 64, 4, 3),
    ("8.0", "forward", 128): Blocks(128, 64, 8, 3),
    ("8.0", "forward", 256): Blocks(64, 64, 8, 2),
    ("8.0", "grad_q", 64): Blocks(128, 64, 8, 2),
    ("8.0", "grad_q", 128): Blocks(64, 64, 8, 2),
    ("8.0", "grad_q", 256): Blocks(64, 32, 8, 2),
    ("8.0", "grad_kv", 64): Blocks(32, 128, 8, 2),
    ("8.0", "grad_kv", 128): Blocks(32, 64, 8, 2),
    ("8.0", "grad_kv", 256): Blocks(32, 32, 8, 1),
    ("8.6", "forward", 64): Blocks(128, 64, 4, 2),
    ("8.6", "forward", 128): Blocks(128, 32, 8, 2),
    ("8.6", "forward", 256): Blocks(64, 32, 8, 1),
    ("8.6", "grad_q", 64): Blocks(128, 64, 8, 2),
    ("8.6", "grad_q", 128): Blocks(64, 64, 8, 1),
    ("8.6", "grad_q", 256): Blocks(32, 32, 8, 1),
    ("8.6", "grad_kv", 64): Blocks(32, 128, 8, 2),
    ("8.6", "grad_kv", 128): Blocks(32, 64, 8, 2),
    ("8.6", "grad_kv", 256): Blocks(16, 32, 8, 1),
    ("9.0", "forward", 64): Blocks(128, 64, 4, 3),
    ("9.0", "forward", 128): Blocks(128, 64, 8, 3),
    ("9.0", "forward", 256): Blocks(128, 64, 8, 2),
    ("9.0", "grad_q", 64): Blocks(128, 64, 8, 3),
    ("9.0", "grad_q", 128): Blocks(128, 64, 8, 2),
    ("9.0", "grad_q", 256): Blocks(64, 32, 8, 2),
    ("9.0", "grad_kv", 64): Blocks(64, 128, 8, 2),
    ("9.0", "grad_kv", 128): Blocks(32, 128, 8, 2),
    ("9.0", "grad_kv", 256): Blocks(64, 32, 8, 1),
}  # fmt: skip
# fp32 uses no tensor cores, so its blocks are small, and the same on each GPU. No script tunes
# them.
FP32: dict[tuple[Kernel, int], Blocks] = {
    ("forward", 64): Blocks(32, 32, 4, 2),
    ("forward", 128): Blocks(16, 32, 8, 1),
    ("forward", 256): Blocks(16, 16, 4, 1),
    ("grad_q", 64): Blocks(32, 32, 4, 2),
    ("grad_q", 128): Blocks(32, 32, 4, 2),
    ("grad_q", 256): Blocks(16, 16, 4, 1),
    ("grad_kv", 64): Blocks(32, 32, 4, 1),
    ("grad_kv", 128): Blocks(16, 32, 4, 1),
    ("grad_kv", 256): Blocks(16, 16, 8, 1),
}
LARGEST_WIDTH = 256


def blocks_for(kernel: Kernel, width: int, dtype: torch.dtype, device: torch.device) -> Blocks:
    """Return the sizes for heads of at most `width` numbers. The interpreter on a CPU gets the rows
    of 8.6."""
    capability = torch.cuda.get_device_capability(device) if device.type == "cuda" else (0, 0)
    return blocks_of(kernel, width, dtype, capability)


def blocks_of(
    kernel: Kernel, width: int, dtype: torch.dtype, capability: tuple[int, int]
) -> Blocks:
    """Return the sizes for heads of at most `width` numbers on a GPU of this compute capability.

    A GPU that the table does not list gets the rows of 9.0 if it is a data-center GPU of a later
    generation (10.0, 10.3), and the rows of 8.6 otherwise.
    """
    column = next(size for size in (64, 128, 256) if width <= size)
    if dtype == torch.float32:
        return FP32[kernel, column]
    own = "{}.{}".format(*capability)
    other = "9.0" if capability[0] == 10 else "8.6"
    return TABLE.get((own, kernel, column)) or TABLE[other, kernel, column]
