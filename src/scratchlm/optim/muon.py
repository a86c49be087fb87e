"""Muon: momentum, orthogonalized by Newton–Schulz (Keller Jordan et al., 2024).

https://kellerjordan.github.io/posts/muon/. Muon is for the hidden matrices of a network. AdamW
updates the embedding, head, gains and biases, in groups of the same optimizer.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from scratchlm.config import takes_synonyms
from scratchlm.devices.shards import assembled, local, spread
from scratchlm.optim.adamw import ADAMW_STATE, check_adamw, update_adamw_group
from scratchlm.optim.optimizer import Group, Optimizer, check_lr, check_range, gradients

NSDtype = Literal["auto", "float32", "bfloat16"]

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_MUON_ONLY = ("momentum", "nesterov", "ns_steps", "ns_dtype")
_ADAMW_ONLY = ("betas", "eps", "foreach", "fused")
_ADAMW_DEFAULTS: Group = {
    "lr": 1e-3,
    "betas": (0.9, 0.999),
    "eps": 1e-8,
    "weight_decay": 0.01,
    "foreach": None,
    "fused": None,
}
STACK_ELEMENTS = 2**22  # the most elements in one stack: 16 MB in fp32


@takes_synonyms()
class Muon(Optimizer):
    """Two rules in one optimizer: one `param_groups`, one state_dict, one `step`.

    A group with `"algorithm": "muon"` (the default) accepts the settings of the constructor, and
    only matrices. A group with `"algorithm": "adamw"` accepts AdamW's settings (`lr betas eps
    weight_decay foreach fused`), and has AdamW's defaults. `scratchlm.optim.groups.muon_groups`
    makes such groups.

    `ns_dtype` is the dtype of Newton–Schulz. "auto" means bfloat16 on a GPU, as published, and
    float32 on the CPU, where bfloat16 took 30 times as long.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.02,
        momentum: float = 0.95,
        nesterov: bool = True,
        weight_decay: float = 0.0,
        ns_steps: int = 5,
        *,
        ns_dtype: NSDtype = "auto",
    ) -> None:
        defaults = {
            "algorithm": "muon",
            "lr": lr,
            "momentum": momentum,
            "nesterov": nesterov,
            "weight_decay": weight_decay,
            "ns_steps": ns_steps,
            "ns_dtype": ns_dtype,
        }
        super().__init__(params, defaults)

    def add_param_group(self, param_group: Group) -> None:
        adamw = param_group.get("algorithm") == "adamw"
        for name in _MUON_ONLY if adamw else _ADAMW_ONLY:
            if name in param_group:
                raise ValueError(
                    f"a group with algorithm='{'adamw' if adamw else 'muon'}' must not have the "
                    f"setting {name}; remove the setting, or change the group's algorithm"
                )
        super().add_param_group({**_ADAMW_DEFAULTS, **param_group} if adamw else param_group)
        if adamw:
            for name in _MUON_ONLY:  # torch added these defaults, but AdamW does not use them
                del self.param_groups[-1][name]

    def check(self, group: Group) -> None:
        match group["algorithm"]:
            case "muon":
                _check_muon(group)
            case "adamw":
                check_adamw(group)
            case other:
                raise ValueError(f"algorithm must be 'muon' or 'adamw' ({other!r}); pass 'muon'")

    def kept(self, group: Group) -> tuple[str, ...]:
        return ADAMW_STATE if group["algorithm"] == "adamw" else ("momentum_buffer",)

    def update(self, group: Group, params: list[Tensor]) -> None:
        if group["algorithm"] == "adamw":
            update_adamw_group(group, params, self.state)
            return
        for param in params:
            if not self.state[param]:
                self.state[param]["momentum_buffer"] = torch.zeros_like(param)
        for some in stacks(params):
            muon_update_stacked(
                some,
                gradients(some),
                [self.state[param]["momentum_buffer"] for param in some],
                lr=float(group["lr"]),
                momentum=group["momentum"],
                nesterov=group["nesterov"],
                weight_decay=group["weight_decay"],
                ns_steps=group["ns_steps"],
                ns_dtype=_ns_dtype(group["ns_dtype"], some[0].device),
            )


def muon_update(
    param: Tensor,
    grad: Tensor,
    momentum_buffer: Tensor,
    *,
    lr: float,
    momentum: float,
    nesterov: bool,
    weight_decay: float,
    ns_steps: int,
    ns_dtype: torch.dtype,
) -> None:
    """param (θ), grad (g), momentum_buffer (b), all (..., rows, cols). Update θ and b in place.

    b ← μb + (1 − μ)g
    u = (1 − μ)g + μb if nesterov else b
    θ ← θ − lr·λ·θ
    θ ← θ − lr·√max(1, rows/cols)·orthogonalize(u)
    """
    momentum_buffer.lerp_(grad, 1 - momentum)
    update = grad.lerp(momentum_buffer, momentum) if nesterov else momentum_buffer
    rows, cols = param.shape[-2:]
    param.mul_(1 - lr * weight_decay)
    scale = math.sqrt(max(1.0, rows / cols))
    param.add_(orthogonalize(update, ns_steps, ns_dtype), alpha=-lr * scale)


def muon_update_stacked(
    params: list[Tensor],
    grads: list[Tensor],
    momentum_buffers: list[Tensor],
    *,
    lr: float,
    momentum: float,
    nesterov: bool,
    weight_decay: float,
    ns_steps: int,
    ns_dtype: torch.dtype,
) -> None:
    """Apply `muon_update` to parameters of one shape, dtype and device, as one stack.

    One matrix of a small model is too little work for several cores or a GPU. With d_model 192 and
    4 layers, one matrix at a time takes 1.4 times as long on two cores, and 0.9 times on one core.
    """
    wholes, params = params, list(map(local, params))
    grads, momentum_buffers = list(map(local, grads)), list(map(local, momentum_buffers))
    torch._foreach_lerp_(momentum_buffers, grads, 1 - momentum)
    updates = momentum_buffers
    if nesterov:
        updates = list(torch._foreach_lerp(grads, momentum_buffers, momentum))
    updates = [assembled(update, whole) for update, whole in zip(updates, wholes, strict=True)]
    rows, cols = wholes[0].shape[-2:]
    matrices = updates[0] if len(updates) == 1 else torch.cat(
        [update.reshape(-1, rows, cols) for update in updates]
    )  # fmt: skip
    orthogonal = orthogonalize(matrices, ns_steps, ns_dtype).view(len(wholes), *wholes[0].shape)
    directions = [
        local(spread(each, whole)) for each, whole in zip(orthogonal.unbind(), wholes, strict=True)
    ]
    torch._foreach_mul_(params, 1 - lr * weight_decay)
    scale = math.sqrt(max(1.0, rows / cols))
    torch._foreach_add_(params, directions, alpha=-lr * scale)


def orthogonalize(matrix: Tensor, steps: int = 5, dtype: torch.dtype = torch.float32) -> Tensor:
    """matrix (..., rows, cols) -> about UVᵀ (..., rows, cols), where USVᵀ is the matrix's SVD.

    X ← aX + b(XXᵀ)X + c(XXᵀ)²X maps each singular value s to as + bs³ + cs⁵ and keeps U and V.
    These coefficients have the steepest slope at 0, so small singular values grow fast. The
    singular values start in [0, 1], because the function divides X by its Frobenius norm, which
    bounds the spectral norm. The singular values end in about [0.7, 1.2], which costs no quality.
    The function computes in `dtype`, and the result has this dtype.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrix.to(dtype)
    tall = matrix.shape[-2] > matrix.shape[-1]
    if tall:  # the transpose has the smaller Gram matrix
        x = x.mT
    x = x / torch.linalg.matrix_norm(x, keepdim=True).clamp(min=1e-7)
    add_product = torch.addmm if x.ndim == 2 else torch.baddbmm
    for _ in range(steps):
        gram = x @ x.mT
        x = add_product(x, add_product(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


def stacks(params: list[Tensor], elements: int = STACK_ELEMENTS) -> list[list[Tensor]]:
    """Group parameters by shape, dtype and device, in lists of at most this many elements.

    A parameter with more elements is alone in its list.
    """
    alike: dict[tuple[object, ...], list[Tensor]] = {}
    for param in params:
        alike.setdefault((param.shape, param.dtype, param.device), []).append(param)
    lists = []
    for some in alike.values():
        most = max(1, elements // max(1, some[0].numel()))
        lists += [some[i : i + most] for i in range(0, len(some), most)]
    return lists


def _ns_dtype(name: NSDtype, device: torch.device) -> torch.dtype:
    if name == "auto":
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    return _DTYPES[name]


def _check_muon(group: Group) -> None:
    check_lr(group["lr"])
    check_range("momentum", group["momentum"], 0.0, 1.0, example=0.95)
    check_range("weight_decay", group["weight_decay"], 0.0, math.inf, example=0.1)
    check_range("ns_steps", group["ns_steps"], 1, math.inf, example=5)
    if group["ns_dtype"] not in ("auto", *_DTYPES):
        raise ValueError(
            f"ns_dtype must be 'auto', 'float32' or 'bfloat16' ({group['ns_dtype']!r}); pass 'auto'"
        )
    for param in group["params"]:
        if param.ndim not in (2, 3):
            raise ValueError(
                f"Muon's parameters must be matrices or stacks of matrices (shape "
                f"{tuple(param.shape)}); put other parameters into a group with algorithm='adamw', "
                "as muon_groups does"
            )
