"""The feed-forward layers: what a block does to each position on its own."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scratchlm.model.layers import Device, Linear


class SwiGLU(nn.Module):
    """x (..., d_model) -> (..., d_model):  W_down (silu(W_gate x) ⊙ W_up x).  arXiv 2002.05202

    std_out is the initial standard deviation of `down_proj`, as in `Linear`.
    """

    def __init__(
        self,
        d_model: int,
        d_ff: int,
        bias: bool = False,
        *,
        std_out: float | None = None,
        device: Device = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        new: dict[str, Any] = {"device": device, "dtype": dtype}
        self.gate_proj = Linear(d_model, d_ff, bias, **new)
        self.up_proj = Linear(d_model, d_ff, bias, **new)
        self.down_proj = Linear(d_ff, d_model, bias, std=std_out, **new)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class ReluSquared(nn.Module):
    """x (..., d_model) -> (..., d_model):  W_down max(W_up x, 0)².  arXiv 2109.08668

    std_out is the initial standard deviation of `down_proj`, as in `Linear`.
    """

    def __init__(
        self,
        d_model: int,
        d_ff: int,
        bias: bool = False,
        *,
        std_out: float | None = None,
        device: Device = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        new: dict[str, Any] = {"device": device, "dtype": dtype}
        self.up_proj = Linear(d_model, d_ff, bias, **new)
        self.down_proj = Linear(d_ff, d_model, bias, std=std_out, **new)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.relu(self.up_proj(x)).square())
