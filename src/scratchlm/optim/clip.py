"""Clipping the gradient by its global norm (Pascanu et al., 1211.5063)."""

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
    """Scale all gradients by min(1, max_norm/(norm + 1e-6)), in place; returns the norm before.

    The norm, a 0-dim tensor, is that of all gradients as one vector; parameters without a gradient
    are skipped. `max_norm=inf` only measures. Raises NumericalError, with every gradient as it
    was, if the norm is not finite: one NaN would otherwise be scaled into every parameter. That
    look at the norm waits for a GPU to finish the backward pass.
    """
    alike = _alike_gradients(params, max_norm)
    norm = _global_norm(alike)
    if not math.isfinite(norm):
        raise NumericalError(
            f"the gradient norm is not finite ({norm.item()}); lower the learning rate, or resume "
            "from the last checkpoint with another seed"
        )
    _scale(alike, norm, max_norm)
    return norm


@torch.no_grad()
def scale_gradients(params: Tensor | Iterable[Tensor], max_norm: float) -> Tensor:
    """`clip_grad_norm` without its check, so that nothing waits for a GPU.

    If the returned norm is not finite, some gradient is NaN or infinite, or all are: whoever reads
    the norm later finds it out, and the parameters are lost by then.
    """
    alike = _alike_gradients(params, max_norm)
    norm = _global_norm(alike)
    _scale(alike, norm, max_norm)
    return norm


def _alike_gradients(params: Tensor | Iterable[Tensor], max_norm: float) -> list[list[Tensor]]:
    if not max_norm > 0:
        raise ValueError(f"max_norm must be above 0 ({max_norm}); pass inf to leave gradients be")
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
    if scale.device.type == "cpu" and scale == 1:  # to look costs nothing here: spare a pass
        return
    for some in alike:
        torch._foreach_mul_([local(grad) for grad in some], scale.to(some[0].device))
