"""Gradient clipping by the global norm (Pascanu et al., 1211.5063)."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from scratchlm.config import takes_synonyms
from scratchlm.devices.shards import is_shard, local, summed_over_ranks
from scratchlm.errors import NumericalError
from scratchlm.optim.optimizer import by_device_and_dtype, not_a_model


@takes_synonyms()
@torch.no_grad()
def clip_grad_norm(params: Tensor | Iterable[Tensor], max_norm: float) -> Tensor:
    """Scale all gradients by min(1, max_norm/(norm + 1e-6)), in place. Return the old norm.

    The norm (0-dim) is the norm of all gradients as one vector. The function skips parameters
    without a gradient. With `max_norm=inf`, the function only measures the norm. If the norm is not
    finite, the function raises NumericalError and changes no gradient, because scaling would make
    every gradient 0 or NaN. This check waits until a GPU has finished the backward pass.
    """
    alike = _alike_gradients(params, max_norm)
    norm = _global_norm(alike)
    if not math.isfinite(norm):
        raise NumericalError(
            f"the gradient norm is not finite ({norm.item()}); use a lower learning rate, or "
            "resume from the last checkpoint with another seed"
        )
    _scale(alike, norm, max_norm)
    return norm


@torch.no_grad()
def scale_gradients(params: Tensor | Iterable[Tensor], max_norm: float) -> Tensor:
    """Scale the gradients as `clip_grad_norm` does, but do not check the norm.

    The function does not wait for a GPU. The caller must check the returned norm, because an update
    with these gradients is wrong if the norm is not finite. An infinite norm makes finite gradients
    0 and infinite gradients NaN. A norm that is NaN makes all gradients NaN. The squares of finite
    gradients can overflow too: three gradients of 1e30 have an infinite norm in float32.
    """
    alike = _alike_gradients(params, max_norm)
    norm = _global_norm(alike)
    _scale(alike, norm, max_norm)
    return norm


def _alike_gradients(params: Tensor | Iterable[Tensor], max_norm: float) -> list[list[Tensor]]:
    if not max_norm > 0:
        raise ValueError(f"max_norm must be above 0 ({max_norm}); pass inf to change no gradient")
    params = [params] if isinstance(params, Tensor) else not_a_model(params)
    grads = [param.grad for param in params if param.grad is not None]
    return [[grads[i] for i in indices] for indices in by_device_and_dtype(grads)]


def _global_norm(alike: list[list[Tensor]]) -> Tensor:
    if not alike:
        return torch.tensor(0.0)
    device = alike[0][0].device
    parts = ([local(grad) for grad in some] for some in alike)
    norms = [norm.to(device) for some in parts for norm in torch._foreach_norm(some)]
    norm = torch.linalg.vector_norm(torch.stack(norms))
    if is_shard(alike[0][0]):
        return summed_over_ranks(norm.square(), alike[0][0]).sqrt()
    return norm


def _scale(alike: list[list[Tensor]], norm: Tensor, max_norm: float) -> None:
    scale = (max_norm / (norm + 1e-6)).clamp(max=1)
    if scale.device.type == "cpu" and scale == 1:  # this check costs nothing on the CPU
        return
    for some in alike:
        torch._foreach_mul_([local(grad) for grad in some], scale.to(some[0].device))
