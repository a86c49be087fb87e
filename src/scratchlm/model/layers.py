"""Linear, Embedding, norms and positions: parameters, and fast versions of `functional`."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scratchlm.config import takes_synonyms


@takes_synonyms()
class Linear(nn.Module):
    """x (..., in_features) -> (..., out_features):  y = W x + b, with W of shape (out, in).

    The weight starts from a normal with standard deviation 1/√in_features. The bias starts at zero.
    """

    def __init__(self, in_features: int, out_features: int, bias: bool = False) -> None:
        super().__init__()
        self.in_features = in_features
        self.out_features = out_features
        self.weight = nn.Parameter(torch.empty(out_features, in_features))
        self.bias = nn.Parameter(torch.empty(out_features)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        truncated_normal_(self.weight, 1 / math.sqrt(self.in_features))
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, bias={self.bias is not None}"


@takes_synonyms()
class Embedding(nn.Module):
    """ids (...) -> (..., d_model): for each id, row `id` of the weight (vocab_size, d_model).

    The weight starts from a normal with standard deviation 1/(2√d_model).
    """

    def __init__(self, vocab_size: int, d_model: int) -> None:
        super().__init__()
        self.vocab_size = vocab_size
        self.d_model = d_model
        self.weight = nn.Parameter(torch.empty(vocab_size, d_model))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        truncated_normal_(self.weight, 0.5 / math.sqrt(self.d_model))

    def forward(self, ids: Tensor) -> Tensor:
        return F.embedding(ids, self.weight)

    def extra_repr(self) -> str:
        return f"{self.vocab_size}, {self.d_model}"


@takes_synonyms()
class RMSNorm(nn.Module):
    """x (..., d_model) -> (..., d_model):  x / √(mean(x²) + eps) · weight.

    With `gain=False`, there is no weight. The layer computes in fp32 and rounds once. The Llama
    of Hugging Face rounds before it multiplies by the weight, so in bf16 the last bit may differ.
    """

    def __init__(self, d_model: int, eps: float = 1e-5, gain: bool = True) -> None:
        super().__init__()
        self.d_model = d_model
        self.eps = eps
        self.weight = nn.Parameter(torch.empty(d_model)) if gain else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        if self.weight is not None:
            nn.init.ones_(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight
        if weight is not None and weight.dtype == x.dtype:
            return F.rms_norm(x, weight.shape, weight, self.eps)
        # torch's fused kernel needs x and the weight in one dtype.
        common = torch.float32 if weight is None else weight.dtype
        common = torch.promote_types(x.dtype, common)
        gain = None if weight is None else weight.to(common)
        return F.rms_norm(x.to(common), (self.d_model,), gain, self.eps).to(x.dtype)

    def extra_repr(self) -> str:
        return f"{self.d_model}, eps={self.eps}, gain={self.weight is not None}"


@takes_synonyms()
class LayerNorm(nn.Module):
    """x (..., d_model) -> (..., d_model):  (x − mean x) / √(var x + eps) · weight + bias."""

    def __init__(self, d_model: int, eps: float = 1e-5, bias: bool = True) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.empty(d_model))
        self.bias = nn.Parameter(torch.empty(d_model)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.ones_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        common = torch.promote_types(x.dtype, self.weight.dtype)
        weight = self.weight.to(common)
        bias = None if self.bias is None else self.bias.to(common)
        return F.layer_norm(x.to(common), weight.shape, weight, bias, self.eps).to(x.dtype)

    def extra_repr(self) -> str:
        return f"{self.weight.shape[0]}, eps={self.eps}, bias={self.bias is not None}"


class LearnedPositions(nn.Module):
    """x (..., seq, d_model), positions (..., seq) -> x plus row `position` of the weight.

    The weight (context_length, d_model) starts like the weight of an `Embedding`. Raise ValueError
    if a position is outside 0…context_length − 1.  arXiv 1810.04805
    """

    def __init__(self, context_length: int, d_model: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(context_length, d_model))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        truncated_normal_(self.weight, 0.5 / math.sqrt(self.weight.shape[1]))

    def forward(self, x: Tensor, positions: Tensor) -> Tensor:
        try:
            return x + F.embedding(positions, self.weight)
        except IndexError:
            raise ValueError(
                f"positions must be in 0…{len(self.weight) - 1} ({positions.min().item()} to "
                f"{positions.max().item()}); shorten the text"
            ) from None

    def extra_repr(self) -> str:
        return f"{self.weight.shape[0]}, {self.weight.shape[1]}"


class SoftCap(nn.Module):
    """x (...) -> (...):  cap · tanh(x / cap), in at least fp32.  arXiv 2408.00118"""

    def __init__(self, cap: float) -> None:
        super().__init__()
        self.cap = cap

    def forward(self, x: Tensor) -> Tensor:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        return ((wide / self.cap).tanh() * self.cap).to(x.dtype)

    def extra_repr(self) -> str:
        return f"{self.cap}"


class NoPositions(nn.Module):
    """The layer that replaces `LearnedPositions` or `RotaryEmbedding` in other models: x -> x."""

    def forward(self, x: Tensor, positions: Tensor) -> Tensor:
        return x

    def turn(self, q: Tensor, k: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        return q, k


@torch.no_grad()
def truncated_normal_(weight: Tensor, std: float) -> None:
    """Fill `weight` from a normal of standard deviation `std`, cut at ±3 std."""
    if weight.is_meta:  # there is nothing to fill, and torch would import its compiler (2 s)
        return
    # This maps uniform numbers through the inverse normal CDF, as nn.init.trunc_normal_ does, but
    # takes a seventh of the time. The numbers are fp32 even if the weight has a narrower dtype.
    edge = math.erf(3 / math.sqrt(2))
    draws = torch.empty(weight.shape, dtype=torch.float32, device=weight.device)
    weight.copy_(draws.uniform_(-edge, edge).erfinv_().mul_(math.sqrt(2) * std))
