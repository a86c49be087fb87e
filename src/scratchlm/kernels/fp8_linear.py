"""Compute a linear layer and its gradients with 8-bit factors, on the tensor cores of a GPU.

    y = X Wᵀ         X and W in e4m3
    dX = dY W        dY in e5m2, W in e4m3
    dW = dYᵀ X       dY in e5m2, X in e4m3

`functional.to_fp8` rounds each matrix, with one scale per matrix that follows from its largest
entry. e4m3 has one bit more than e5m2. e5m2 has a larger range, which gradients need (arXiv
2209.05433). The tensor cores multiply 8-bit factors twice as fast as bf16. For the backward pass,
the layer keeps X in 8 bits. It keeps no copy of W, because backward rounds W a second time.

The layer must read each matrix twice before the product: first for the scale, then for the codes.
torch.compile fuses these steps with their neighbours. Without compilation, they cost more time than
the product saves.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from scratchlm.functional import FP8, to_fp8

MULTIPLE = 16  # the hardware multiplies 16 x 16 tiles of 8-bit numbers
E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2

# (row, inner), (inner, column), dtype of the result -> (row, column)
Product = Callable[[FP8, FP8, torch.dtype], Tensor]


def scaled_product(a: FP8, b: FP8, dtype: torch.dtype) -> Tensor:
    """a (row, inner), b (inner, column) -> (row, column): the fast version of
    `functional.fp8_product`.

    `inner` and `column` must be multiples of 16. The hardware needs `a` row by row in memory, and
    `b` column by column. If both matrices are e4m3, as in the forward pass, it uses its fast sums,
    which keep fewer bits (arXiv 2412.19437, section 3.3.2). Gradients use the exact sums.
    """
    with torch.autocast(
        a.codes.device.type, enabled=False
    ):  # else autocast would change the CPU's kernel
        return torch._scaled_mm(
            a.codes.contiguous(),
            b.codes.T.contiguous().T,
            a.scale,
            b.scale,
            out_dtype=dtype,
            use_fast_accum=a.codes.dtype == b.codes.dtype,
        )


def fp8_linear(x: Tensor, weight: Tensor, *, product: Product = scaled_product) -> Tensor:
    """x (..., in), weight (out, in) -> (..., out):  y = W x, with 8-bit factors.

    `in`, `out` and the number of rows of x must be positive multiples of 16. The result has the
    dtype of autocast, or the dtype of x without autocast. The gradients have the dtypes of x and
    `weight`. The function is differentiable only once. `product` computes the three matrix
    products. With `functional.fp8_product`, the function is the definition, for any device.

    Raise ValueError if a size is not a positive multiple of 16.
    """
    rows = x.numel() // max(x.shape[-1], 1)
    if any(size % MULTIPLE or size == 0 for size in (*weight.shape, rows)):
        raise ValueError(
            f"FP8 needs sizes that are positive multiples of {MULTIPLE} (weight "
            f"{tuple(weight.shape)}, {rows} rows of x); change the sizes, or use bfloat16"
        )
    device = x.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
    y = _FP8Linear.apply(x.reshape(rows, x.shape[-1]), weight, dtype, product)
    return y.unflatten(0, x.shape[:-1])


class _FP8Linear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, dtype: torch.dtype, product: Product
    ) -> Tensor:
        rounded = to_fp8(x, E4M3)
        ctx.save_for_backward(*rounded, weight)
        ctx.dtype, ctx.product = x.dtype, product
        return product(rounded, to_fp8(weight, E4M3).T, dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        *x, weight = ctx.saved_tensors
        grad = to_fp8(grad_y, E5M2)
        grad_x = grad_weight = None
        if ctx.needs_input_grad[0]:
            grad_x = ctx.product(grad, to_fp8(weight, E4M3), ctx.dtype)
        if ctx.needs_input_grad[1]:
            grad_weight = ctx.product(grad.T, FP8(*x), weight.dtype)
        return grad_x, grad_weight, None, None
