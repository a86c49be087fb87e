"""Compute the head and the log-probability of each target, with the logits of one chunk in memory.

The gradient of a log-probability is one-hot − softmax, times the incoming gradient of its token. A
loss of whole sequences determines the incoming gradients only after the forward pass of all tokens.
So the backward pass computes the logits of each chunk a second time: one more matrix product than
`linear_cross_entropy`, and no more memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from scratchlm.functional import IGNORED
from scratchlm.kernels.linear_cross_entropy import CHUNK, check_shapes


def linear_log_probs(
    hidden: Tensor, weight: Tensor, targets: Tensor, *, chunk: int = CHUNK
) -> Tensor:
    """hidden (..., d_model), weight (vocab, d_model), integer targets (...) -> (...), in nats.

    log π(t) = log_softmax(weight · hidden)_t for each target t; 0 for a target of −100

    `functional.sequence_log_probs` is the sum over a sequence. Under autocast, matrix products use
    the dtype of autocast. Exponentials and sums use at least fp32. `linear_cross_entropy` explains
    `chunk`.

    The result is differentiable only once. Raise ValueError for shapes that do not match.
    """
    check_shapes(hidden, weight, targets, chunk)
    flat = hidden.reshape(-1, hidden.shape[-1])
    found: Tensor = _LinearLogProbs.apply(flat, weight, targets.flatten(), chunk)
    return found.view(targets.shape)


class _LinearLogProbs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, chunk: int) -> Tensor:
        dtype = weight.dtype
        if torch.is_autocast_enabled(hidden.device.type):
            dtype = torch.get_autocast_dtype(hidden.device.type)
        ctx.save_for_backward(hidden, weight, targets)
        ctx.chunk, ctx.dtype = chunk, dtype
        wide = torch.promote_types(dtype, torch.float32)
        found = torch.empty(len(hidden), dtype=wide, device=hidden.device)
        with torch.autocast(hidden.device.type, enabled=False):
            for part, _, log_probs, target, skipped in _chunks(hidden, weight, targets, ctx):
                found[part] = log_probs.gather(-1, target).masked_fill(skipped, 0).squeeze(-1)
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, targets = ctx.saved_tensors
        low, wide = weight.to(ctx.dtype), torch.promote_types(weight.dtype, torch.float32)
        grad_hidden = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        grad_weight = torch.zeros_like(weight, dtype=wide) if ctx.needs_input_grad[1] else None
        for part, x, log_probs, target, skipped in _chunks(hidden, weight, targets, ctx):
            incoming = grad[part].unsqueeze(-1).to(log_probs.dtype).masked_fill(skipped, 0)
            grad_logits = log_probs.exp_().mul_(-incoming).scatter_add_(-1, target, incoming)
            grad_logits = grad_logits.to(ctx.dtype)
            if grad_hidden is not None:
                grad_hidden[part] = grad_logits @ low
            if grad_weight is not None:
                grad_weight += grad_logits.T @ x
        return (
            grad_hidden,
            None if grad_weight is None else grad_weight.to(weight.dtype),
            None,
            None,
        )


def _chunks(
    hidden: Tensor, weight: Tensor, targets: Tensor, ctx: Any
) -> Iterator[tuple[slice, Tensor, Tensor, Tensor, Tensor]]:
    """Yield for each chunk of tokens: its place, hidden, log-probabilities (token, vocab), targets
    (token, 1), and whether each target is ignored (token, 1)."""
    weight, wide = weight.to(ctx.dtype), torch.promote_types(ctx.dtype, torch.float32)
    for start in range(0, len(hidden), ctx.chunk):
        part = slice(start, start + ctx.chunk)
        target = targets[part].unsqueeze(-1)
        skipped = target == IGNORED
        # An ignored token is a zero vector, so that it may contain any number, also NaN.
        x = hidden[part].to(ctx.dtype).masked_fill(skipped, 0)
        log_probs = torch.log_softmax(x @ weight.T, -1, dtype=wide)
        yield part, x, log_probs, target.masked_fill(skipped, 0), skipped
