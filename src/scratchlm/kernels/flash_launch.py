"""Call the kernels of flash attention for tensors: strides, sizes, and the number of programs."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from scratchlm.kernels import flash_kernels as kernels
from scratchlm.kernels.flash_blocks import Blocks, Kernel, blocks_for

_DELTA_ROWS = 32  # of a program; 256 columns then fit in registers
_LONGEST_ROW = 2**24  # elements: 128 rows of a block then have 32-bit offsets


class Inputs(NamedTuple):
    """q (batch, head, query, width), k and v (batch, kv_head, key, width), first (batch, query).

    `first` is int32 and contiguous, and not far above the number of keys. `window` implies
    `causal`, and is below the number of keys.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    first: Tensor | None
    causal: bool
    window: int | None

    @property
    def sizes(self) -> kernels.Sizes:
        heads, queries = self.q.shape[1:3]
        kv_heads, keys = self.k.shape[1:3]
        return kernels.Sizes(heads, heads // kv_heads, queries, keys)

    def blocks(self, kernel: Kernel) -> Blocks:
        width = max(self.q.shape[-1], self.v.shape[-1])
        return blocks_for(kernel, width, self.q.dtype, self.q.device)


def forward(x: Inputs, output: Tensor, log_sums: Tensor, blocks: Blocks | None = None) -> None:
    """Write `output` (batch, head, query, d_v), and log2 Σ exp(score) into `log_sums` (batch, head,
    query) in fp32."""
    blocks = blocks or x.blocks("forward")
    heads = (*map(_heads, (x.q, x.k, x.v)), _result(output))
    _launch(kernels.forward, _programs(x.q, blocks.queries), blocks, x, *heads, log_sums, x.first)


def backward(
    x: Inputs,
    grad: Tensor,
    output: Tensor,
    log_sums: Tensor,
    grads: tuple[Tensor, Tensor, Tensor],
    blocks: Blocks | None = None,
) -> None:
    """Write the gradients of q, k and v for the gradient of the output."""
    deltas = torch.empty_like(log_sums)
    delta(x, grad, output, deltas)
    grad_q(x, grad, log_sums, deltas, grads[0], blocks)
    grad_kv(x, grad, log_sums, deltas, grads[1], grads[2], blocks)


def delta(x: Inputs, grad: Tensor, output: Tensor, deltas: Tensor) -> None:
    """Write Σ grad ⊙ output (batch, head, query) in fp32."""
    if programs := _programs(x.q, _DELTA_ROWS):
        with torch.cuda.device_of(x.q):
            kernels.delta[(programs,)](
                _heads(output), _heads(grad), deltas, x.sizes, DV=x.v.shape[-1], M=_DELTA_ROWS
            )


def grad_q(
    x: Inputs,
    grad: Tensor,
    log_sums: Tensor,
    deltas: Tensor,
    dq: Tensor,
    blocks: Blocks | None = None,
) -> None:
    blocks = blocks or x.blocks("grad_q")
    q, k, v, dy = map(_heads, (x.q, x.k, x.v, grad))
    numbers = (q, k, v, dy, log_sums, deltas)
    programs = _programs(x.q, blocks.queries)
    _launch(kernels.grad_q, programs, blocks, x, *numbers, _result(dq), x.first)


def grad_kv(
    x: Inputs,
    grad: Tensor,
    log_sums: Tensor,
    deltas: Tensor,
    dk: Tensor,
    dv: Tensor,
    blocks: Blocks | None = None,
) -> None:
    blocks = blocks or x.blocks("grad_kv")
    q, k, v, dy = map(_heads, (x.q, x.k, x.v, grad))
    results = map(_result, (dk, dv))
    numbers = (q, k, v, dy, log_sums, deltas)
    until = None if x.first is None else _until(x.first, x.k.shape[2])
    programs = _programs(x.k, blocks.keys)
    _launch(kernels.grad_kv, programs, blocks, x, *numbers, *results, x.first, until)


def _programs(x: Tensor, rows: int) -> int:
    """Return the number of blocks of `rows` rows in all heads."""
    return x.shape[0] * x.shape[1] * triton.cdiv(x.shape[2], rows)


def _launch(kernel: Any, programs: int, blocks: Blocks, x: Inputs, *arguments: Any) -> None:
    if not programs:  # CUDA refuses an empty grid
        return
    d_head = x.q.shape[-1]
    with torch.cuda.device_of(x.q):  # Triton runs on the current device
        kernel[(programs,)](
            *arguments, x.sizes, x.window, d_head**-0.5, D=d_head, DV=x.v.shape[-1],
            M=blocks.queries, N=blocks.keys, CAUSAL=x.causal, num_warps=blocks.warps,
            num_stages=blocks.stages, enable_fp_fusion=True,
        )  # fmt: skip


def _heads(x: Tensor) -> kernels.Heads:
    """Return an input of a kernel, copied if the kernel cannot read it fast.

    Triton compiles another kernel for strides or addresses that are no multiples of 16, with more
    registers and without asynchronous copies. A copy costs less. It cannot help if the width is no
    multiple of 16.
    """
    slow = x.shape[-1] % 16 == 0 and any(n % 16 for n in (x.data_ptr(), *x.stride()[:-1]))
    if x.stride(-1) != 1 or x.stride(-2) >= _LONGEST_ROW or slow:
        x = x.clone(memory_format=torch.contiguous_format)
    return kernels.Heads(x, *x.stride()[:3])


def _result(x: Tensor) -> kernels.Heads:
    """Return a result of a kernel. The kernel must not write into a copy, which would be lost."""
    assert x.stride(-1) == 1
    assert x.stride(-2) < _LONGEST_ROW
    return kernels.Heads(x, *x.stride()[:3])


def _until(first: Tensor, keys: int) -> Tensor:
    """first (batch, query) -> (batch, 2, key), as `grad_kv` needs: the number of queries before the
    first query i with first[i] > key, and up to the last query with first[i] ≤ key."""
    key = torch.arange(keys, dtype=first.dtype, device=first.device).repeat(first.shape[0], 1)
    later = first.flip(-1).cummin(-1).values.flip(-1)  # the smallest from query i on
    both = [
        torch.searchsorted(each, key, right=True, out_int32=True)
        for each in (first.cummax(-1).values, later)
    ]
    return torch.stack(both, 1)
