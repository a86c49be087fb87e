"""Compute the head and the loss in one function, with the logits of one chunk of tokens in memory.

The logits are the largest tensor of a training step: 2,048 tokens and a vocabulary of 50,000 take
400 MB in fp32, and plain autograd stores three such tensors. The gradient for one token is softmax
− one-hot, which depends only on the logits of that token. So the forward pass also computes the
gradients of the input and of the weight, one chunk at a time. The backward pass only multiplies
them by the incoming gradient (Liger-Kernel, arXiv 2410.10989, section 3.2).
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from scratchlm.functional import IGNORED

CHUNK = 512  # tokens


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    z_loss: float = 0.0,
    softcap: float | None = None,
    chunk: int = CHUNK,
) -> tuple[Tensor, Tensor]:
    """hidden (..., d_model), weight (vocab, d_model), integer targets (...) -> () loss, () nats.

    This is the fast version of `functional.linear_cross_entropy`. Both results are sums over the
    targets that are not −100. The loss is the cross-entropy + `z_loss` · logsumexp². The nats are
    the cross-entropy alone. They go to the log and have no gradient. Under autocast, matrix
    products use the dtype of autocast. Exponentials and sums use at least fp32. The sum of the
    chunks' gradients of `weight` also uses at least fp32.

    chunk: the number of tokens whose logits are in memory at a time. A smaller chunk saves memory
    and costs time: its matrix products are small, and each chunk updates the whole gradient of
    `weight`.

    softcap: the logits become `functional.soft_cap` of themselves. One more chunk of logits is
    then in memory.

    The loss is differentiable only once. Raise ValueError for shapes that do not match.
    """
    check_shapes(hidden, weight, targets, chunk)
    hidden, targets = hidden.reshape(-1, hidden.shape[-1]), targets.flatten()
    if hidden.device.type == "cpu" and not torch.compiler.is_compiling():
        # Many tokens of a dialogue have no target, so they need no logits. On a GPU, the number of
        # targets would need a synchronization.
        counted = targets != IGNORED
        if not counted.all():
            hidden, targets = hidden[counted], targets[counted]
    if torch.is_grad_enabled() and (hidden.requires_grad or weight.requires_grad):
        loss, nats = _LinearCrossEntropy.apply(hidden, weight, targets, z_loss, softcap, chunk)
        # Without z_loss both are equal. inductor would merge them into one without a gradient.
        return loss, nats if z_loss else loss.detach()
    return _sum_over_chunks(hidden, weight, targets, z_loss, softcap, chunk)


def check_shapes(hidden: Tensor, weight: Tensor, targets: Tensor, chunk: int) -> None:
    """Raise ValueError if the shapes do not match, or if `chunk` is below 1."""
    if weight.ndim != 2 or hidden.shape != (*targets.shape, weight.shape[1]):
        raise ValueError(
            "hidden must be (..., d_model) for targets (...) and weight (vocab, d_model) "
            f"(hidden {tuple(hidden.shape)}, targets {tuple(targets.shape)}, weight "
            f"{tuple(weight.shape)}); reshape one of the tensors"
        )
    if chunk < 1:
        raise ValueError(f"chunk must be at least 1 token ({chunk}); pass e.g. 512")


class ChunkBuffers:
    """Memory for the logits of a chunk: `logits` and `probs`, both (tokens, vocab).

    All chunks share these buffers, because new memory pages cost as much as a softmax. In fp32 one
    buffer is enough for both, because log_softmax reads each element before it writes it. With
    `softcap`, backward needs the third buffer `tanhs`, which in fp32 is the buffer `logits`.
    """

    def __init__(self, tokens: int, weight: Tensor, softcap: float | None) -> None:
        self.softcap = softcap
        self.logits = torch.empty(tokens, len(weight), dtype=weight.dtype, device=weight.device)
        wide = torch.promote_types(weight.dtype, torch.float32)
        new = partial(torch.empty_like, self.logits, dtype=wide)
        one = weight.dtype == wide
        self.probs = self.logits if one and softcap is None else new()
        self.tanhs = self.logits if one or softcap is None else new()

    def fill(self, x: Tensor, weight: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x (token, d_model), target (token, 1) -> logits and log-probabilities (token, vocab), and
        the logit of each target (token, 1)."""
        logits, probs = self.logits[: len(x)], self.probs[: len(x)]
        torch.mm(x, weight.T, out=logits)
        scores = logits
        if self.softcap is not None:
            tanhs = torch.div(logits, self.softcap, out=self.tanhs[: len(x)]).tanh_()
            scores = torch.mul(tanhs, self.softcap, out=probs)
        target_logits = scores.gather(-1, target)
        torch.log_softmax(scores, -1, dtype=probs.dtype, out=probs)
        return logits, probs, target_logits

    def before_cap(self, grad: Tensor) -> Tensor:
        """Turn the gradient of the capped logits (token, vocab) into the gradient of the logits, in
        place.

        c tanh(x/c) has the slope 1 − tanh(x/c)².
        """
        if self.softcap is not None:
            tanhs = self.tanhs[: len(grad)]
            grad.mul_(tanhs.square_().neg_().add_(1))
        return grad


def add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """Add the matrix product of `left` and `right` to `total`, whose dtype may be wider."""
    if total.dtype == left.dtype:
        total.addmm_(left, right)
    else:
        total += left @ right


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, *settings: Any
    ) -> tuple[Tensor, Tensor]:
        z_loss, softcap, chunk = settings
        grad_hidden = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        wide = torch.promote_types(weight.dtype, torch.float32)
        grad_weight = torch.zeros_like(weight, dtype=wide) if ctx.needs_input_grad[1] else None
        loss, cross_entropy = _sum_over_chunks(
            hidden, weight, targets, z_loss, softcap, chunk, grad_hidden, grad_weight
        )
        ctx.save_for_backward(
            grad_hidden, None if grad_weight is None else grad_weight.to(weight.dtype)
        )
        ctx.mark_non_differentiable(cross_entropy)
        return loss, cross_entropy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        grads = (None if grad is None else grad * grad_loss for grad in ctx.saved_tensors)
        return (*grads, None, None, None, None)


def _sum_over_chunks(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    z_loss: float,
    softcap: float | None,
    chunk: int,
    grad_hidden: Tensor | None = None,
    grad_weight: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """hidden (tokens, d_model), targets (tokens,) -> loss, cross-entropy.

    Fill grad_hidden and add to grad_weight, if they are not None.
    """
    device, dtype = hidden.device, weight.dtype
    if torch.is_autocast_enabled(device.type):
        dtype = torch.get_autocast_dtype(device.type)
    wide = torch.promote_types(dtype, torch.float32)
    hidden, weight = hidden.to(dtype), weight.to(dtype)
    uncounted = (targets == IGNORED).unsqueeze(-1)
    index = targets.unsqueeze(-1).masked_fill(uncounted, 0)
    cross_entropy = torch.zeros((), dtype=wide, device=device)
    squares = torch.zeros((), dtype=wide, device=device)
    tokens = hidden.shape[0]
    buffers = ChunkBuffers(min(chunk, tokens), weight, softcap)
    with torch.autocast(device.type, enabled=False):
        for start in range(0, tokens, chunk):
            part = slice(start, min(start + chunk, tokens))
            target, skipped = index[part], uncounted[part]
            # An ignored token is a zero vector, so it adds nothing to the gradient of `weight`.
            x = hidden[part].masked_fill(skipped, 0)
            logits, probs, target_logits = buffers.fill(x, weight, target)
            target_log_probs = probs.gather(-1, target)
            log_sums = target_logits - target_log_probs
            cross_entropy -= target_log_probs.masked_fill(skipped, 0).sum()
            if z_loss:
                squares += log_sums.masked_fill(skipped, 0).square().sum()
            if grad_hidden is None and grad_weight is None:
                continue

            grad_logits = probs.exp_()
            if z_loss:  # d/dx of z·s² is 2·z·s·softmax(x), with s = log Σ exp x
                grad_logits *= 1 + 2 * z_loss * log_sums
            grad_logits.scatter_add_(-1, target, target_log_probs.new_full(target.shape, -1))
            grad_logits = buffers.before_cap(grad_logits)
            if dtype != wide:
                grad_logits = logits.copy_(grad_logits)
            if grad_hidden is not None:
                grad_hidden[part] = (grad_logits @ weight).masked_fill_(skipped, 0)
            if grad_weight is not None:
                add_product(grad_weight, grad_logits.T, x)
    return cross_entropy + z_loss * squares, cross_entropy
