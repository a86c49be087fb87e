"""Attention in Triton, with the contract of `model.attention.sdpa` except for its mask.

torch sees two operators, `scratchlm::flash_attention` and its backward. So a compiled model has no
break in its graph, and activation checkpointing, FSDP and FLOP counters treat each as one step.
`flash_kernels` contains the arithmetic. This module needs the extra `gpu`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from scratchlm.functional import check_first, check_heads, check_window, refuse_mask

try:
    import triton
except ModuleNotFoundError:
    raise ModuleNotFoundError(
        "attention in Triton needs triton (not installed); run pip install 'scratchlm[gpu]' on "
        "Linux x86-64, or use sdpa"
    ) from None

from scratchlm.kernels import flash_launch
from scratchlm.kernels.flash_blocks import LARGEST_WIDTH
from scratchlm.kernels.flash_launch import Inputs

DTYPES = (torch.float16, torch.bfloat16, torch.float32)


def flash_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None = None,
    *,
    causal: bool = False,
    window: int | None = None,
    first: Tensor | None = None,
) -> Tensor:
    """q (..., query, d_head), k (..., key, d_head), v (..., key, d_v) -> (..., query, d_v).

    This is the GPU version of `functional.scaled_dot_product_attention`, with the same contract,
    but without `mask`: each query attends to an interval of keys. `causal` aligns the last query
    with the last key. `window` implies `causal`. `first` (..., query) is the first key that each
    query may attend to. A query that may attend to no key gets zeros. `k` and `v` may have fewer
    heads (axis −3) than `q`.

    Products have the dtype of the inputs: bfloat16, float16, or float32 without TF32. Sums and
    exponentials are in fp32. Equal inputs give equal bits. The gradient has no second derivative.

    k and v must be finite. A block that a query visits multiplies a forbidden key by 0, and 0 · NaN
    is NaN. So NaN or infinity in such a key can reach the query, depending on the sizes of blocks.

    Raise ValueError for a mask, other dtypes, mixed dtypes (autocast changes nothing here), shapes
    that do not fit, a window below 1, or a width above 256.
    """
    refuse_mask(mask)
    check_heads(q, k, v)
    check_window(window)
    _check(q, k, v)
    if first is not None:
        check_first(first, q)
        first = first.clamp(0, k.shape[-2]).to(torch.int32).contiguous()
        first = torch.atleast_2d(first).flatten(0, -2)  # (batch, query)
    if window is not None:
        causal = True
        window = window if window < k.shape[-2] else None
    output, _ = _attend(*map(_batched, (q, k, v)), first, causal, window)
    return output.reshape(*q.shape[:-1], v.shape[-1])


def _check(q: Tensor, k: Tensor, v: Tensor) -> None:
    """Raise ValueError for dtypes and widths that the kernel does not have."""
    dtypes = [x.dtype for x in (q, k, v)]
    if len(set(dtypes)) > 1 or q.dtype not in DTYPES:
        raise ValueError(
            f"q, k and v must have one dtype of {DTYPES} ({dtypes}); convert them with .to()"
        )
    if max(q.shape[-1], v.shape[-1]) > LARGEST_WIDTH:
        raise ValueError(
            f"heads must have at most {LARGEST_WIDTH} numbers (q {q.shape[-1]}, v {v.shape[-1]}); "
            "use sdpa"
        )


def _batched(x: Tensor) -> Tensor:
    """x (..., head, seq, width) or (seq, width) -> (batch, head, seq, width)."""
    while x.ndim < 4:
        x = x.unsqueeze(0)
    return x.flatten(0, -4)


def _new_heads(like: Tensor, width: int) -> Tensor:
    """Return an empty (batch, head, seq, width). A layer joins heads next, so the memory has the
    order (batch, seq, head, width)."""
    batch, heads, seq, _ = like.shape
    return like.new_empty(batch, seq, heads, width).transpose(1, 2)


@torch.library.custom_op("scratchlm::flash_attention", mutates_args=())
def _attend(
    q: Tensor, k: Tensor, v: Tensor, first: Tensor | None, causal: bool, window: int | None
) -> tuple[Tensor, Tensor]:
    if not (q.is_cuda or triton.knobs.runtime.interpret):
        raise ValueError(
            f"the Triton kernel needs a CUDA device ({q.device}); move the tensors to a GPU, or "
            "use sdpa"
        )
    output, log_sums = _outputs(q, k, v, first, causal, window)
    flash_launch.forward(Inputs(q, k, v, first, causal, window), output, log_sums)
    return output, log_sums


@_attend.register_fake
def _outputs(
    q: Tensor, k: Tensor, v: Tensor, first: Tensor | None, causal: bool, window: int | None
) -> tuple[Tensor, Tensor]:
    return _new_heads(q, v.shape[-1]), q.new_empty(q.shape[:-1], dtype=torch.float32)


@torch.library.custom_op("scratchlm::flash_attention_backward", mutates_args=())
def _backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    output: Tensor,
    log_sums: Tensor,
    first: Tensor | None,
    causal: bool,
    window: int | None,
) -> tuple[Tensor, Tensor, Tensor]:
    grads = _new_heads(q, q.shape[-1]), _new_heads(k, k.shape[-1]), _new_heads(v, v.shape[-1])
    x = Inputs(q, k, v, first, causal, window)
    flash_launch.backward(x, grad, output, log_sums, grads)
    return grads


@_backward.register_fake
def _(grad: Tensor, q: Tensor, k: Tensor, v: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    return _new_heads(q, q.shape[-1]), _new_heads(k, k.shape[-1]), _new_heads(v, v.shape[-1])


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    q, k, v, first, ctx.causal, ctx.window = inputs
    ctx.save_for_backward(q, k, v, *output, first)
    ctx.set_materialize_grads(False)


def _differentiate(ctx: Any, grad: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
    if grad is None:
        return (None,) * 6
    return (*_backward(grad, *ctx.saved_tensors, ctx.causal, ctx.window), None, None, None)


_attend.register_autograd(_differentiate, setup_context=_save)


@register_flop_formula(torch.ops.scratchlm.flash_attention)
def _flops(q: Any, k: Any, v: Any, *_: Any, **__: Any) -> int:
    """Count as torch counts its own attention: all keys for each query, 2 FLOPs a product."""
    batch, heads, queries, d_head = q
    return 2 * batch * heads * queries * k[2] * (d_head + v[3])


@register_flop_formula(torch.ops.scratchlm.flash_attention_backward)
def _backward_flops(grad: Any, q: Any, k: Any, v: Any, *_: Any, **__: Any) -> int:
    """Five products: scores, dp, dq and dk, dv."""
    batch, heads, queries, d_head = q
    return 2 * batch * heads * queries * k[2] * (3 * d_head + 2 * v[3])
