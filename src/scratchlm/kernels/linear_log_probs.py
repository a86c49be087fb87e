"""Compute the head and the log-probability of each target, with the logits of one chunk in memory.

The gradient of a log-probability is one-hot − softmax, times the incoming gradient of its token. A
loss of whole sequences determines the incoming gradients only after the forward pass of all tokens.
So the backward pass computes the logits of each chunk a second time: one more matrix product than
`linear_cross_entropy`, and no more memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from scratchlm.functional import IGNORED
from scratchlm.kernels.linear_cross_entropy import CHUNK, ChunkBuffers, add_product, check_shapes


def linear_log_probs(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    softcap: float | None = None,
    chunk: int = CHUNK,
) -> Tensor:
    """hidden (..., d_model), weight (vocab, d_model), integer targets (...) -> (...), in nats.

    log π(t) = log_softmax(weight · hidden)_t for each target t; 0 for a target of −100

    `functional.sequence_log_probs` is the sum over a sequence. Under autocast, matrix products use
    the dtype of autocast. Exponentials and sums use at least fp32. `linear_cross_entropy` explains
    `softcap` and `chunk`.

    The result is differentiable only once. Raise ValueError for shapes that do not match.
    """
    check_shapes(hidden, weight, targets, chunk)
    flat = hidden.reshape(-1, hidden.shape[-1])
    found: Tensor = _LinearLogProbs.apply(flat, weight, targets.flatten(), softcap, chunk)
    return found.view(targets.shape)


class _LinearLogProbs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, *given: Any) -> Tensor:
        targets, softcap, chunk = given
        dtype = weight.dtype
        if torch.is_autocast_enabled(hidden.device.type):
            dtype = torch.get_autocast_dtype(hidden.device.type)
        ctx.save_for_backward(hidden, weight, targets)
        ctx.chunk, ctx.dtype, ctx.softcap = chunk, dtype, softcap
        wide = torch.promote_types(dtype, torch.float32)
        found = torch.empty(len(hidden), dtype=wide, device=hidden.device)
        with torch.autocast(hidden.device.type, enabled=False):
            buffers = ChunkBuffers(min(chunk, len(hidden)), weight.to(dtype), softcap)
            for each in _chunks(hidden, weight.to(dtype), targets, chunk, buffers):
                log_probs = each.log_probs.gather(-1, each.target)
                found[each.part] = log_probs.masked_fill(each.is_ignored, 0).squeeze(-1)
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, targets = ctx.saved_tensors
        low, wide = weight.to(ctx.dtype), torch.promote_types(weight.dtype, torch.float32)
        grad_hidden = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        grad_weight = torch.zeros_like(weight, dtype=wide) if ctx.needs_input_grad[1] else None
        buffers = ChunkBuffers(min(ctx.chunk, len(hidden)), low, ctx.softcap)
        for part, x, logits, log_probs, target, is_ignored in _chunks(
            hidden, low, targets, ctx.chunk, buffers
        ):
            incoming = grad[part].unsqueeze(-1).masked_fill(is_ignored, 0)
            grad_logits = log_probs.exp_().mul_(-incoming).scatter_add_(-1, target, incoming)
            grad_logits = buffers.before_cap(grad_logits)
            if grad_logits.dtype != logits.dtype:
                grad_logits = logits.copy_(grad_logits)
            if grad_hidden is not None:
                grad_hidden[part] = grad_logits @ low
            if grad_weight is not None:
                add_product(grad_weight, grad_logits.T, x)
        if grad_weight is not None:
            grad_weight = grad_weight.to(weight.dtype)
        return grad_hidden, grad_weight, None, None, None


class _Chunk(NamedTuple):
    """One chunk of tokens. logits, log_probs: (token, vocab), perhaps in the same memory. target,
    is_ignored: (token, 1)."""

    part: slice
    x: Tensor
    logits: Tensor
    log_probs: Tensor
    target: Tensor
    is_ignored: Tensor


def _chunks(
    hidden: Tensor, weight: Tensor, targets: Tensor, chunk: int, buffers: ChunkBuffers
) -> Iterator[_Chunk]:
    """Yield the chunks in order. Each chunk overwrites the logits of the chunk before it."""
    for start in range(0, len(hidden), chunk):
        part = slice(start, start + chunk)
        target = targets[part].unsqueeze(-1)
        is_ignored = target == IGNORED
        # An ignored token is a zero vector, so that it may contain any number, also NaN.
        x = hidden[part].to(weight.dtype).masked_fill(is_ignored, 0)
        target = target.masked_fill(is_ignored, 0)
        logits, log_probs, _ = buffers.fill(x, weight, target)
        yield _Chunk(part, x, logits, log_probs, target, is_ignored)
