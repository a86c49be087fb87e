"""The feed-forward layers, which transform each position separately."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from scratchlm.config import takes_synonyms
from scratchlm.model.config import FeedForward
from scratchlm.model.layers import Linear


@takes_synonyms()
class SwiGLU(nn.Module):
    """x (..., d_model) -> (..., d_model):  W_down (silu(W_gate x) ⊙ W_up x).  arXiv 2002.05202"""

    def __init__(self, d_model: int, d_ff: int, bias: bool = False) -> None:
        super().__init__()
        self.gate_proj = Linear(d_model, d_ff, bias)
        self.up_proj = Linear(d_model, d_ff, bias)
        self.down_proj = Linear(d_ff, d_model, bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class MLP(nn.Module):
    """x (..., d_model) -> (..., d_model):  W_down activation(W_up x).  arXiv 1706.03762, 3.3"""

    def __init__(
        self,
        d_model: int,
        d_ff: int,
        bias: bool = False,
        *,
        activation: Callable[[Tensor], Tensor],
    ) -> None:
        super().__init__()
        self.activation = activation
        self.up_proj = Linear(d_model, d_ff, bias)
        self.down_proj = Linear(d_ff, d_model, bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(self.activation(self.up_proj(x)))


def relu2(x: Tensor) -> Tensor:
    """max(x, 0)².  arXiv 2109.08668"""
    return F.relu(x).square()


# GPT-2 uses this form: 0.5x (1 + tanh(√(2/π) (x + 0.044715x³))).  arXiv 1606.08415
gelu = partial(F.gelu, approximate="tanh")


def new_feed_forward(ffn: FeedForward, d_model: int, d_ff: int, bias: bool) -> nn.Module:
    """Return a new layer of the kind `ffn`. The kind `silu` is SwiGLU without its gate."""
    match ffn:
        case "swiglu":
            return SwiGLU(d_model, d_ff, bias)
        case "gelu":
            return MLP(d_model, d_ff, bias, activation=gelu)
        case "relu2":
            return MLP(d_model, d_ff, bias, activation=relu2)
        case "silu":
            return MLP(d_model, d_ff, bias, activation=F.silu)
