"""Mixture of experts: each token goes through a few of many feed-forward layers.

    p = softmax(W_router x)                   one probability per expert
    y = Σ_{e in top k of p} (p_e / Σ p) expert_e(x)  +  shared(x)

`functional.mixture_of_experts` is the definition. This module sorts the tokens by expert, so that
each matrix of an expert needs one product. It drops no token, even if some experts get many more
tokens than others (arXiv 2211.15841).
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scratchlm.model.feed_forward import SwiGLU
from scratchlm.model.layers import Linear, truncated_normal_


class MixtureOfExperts(nn.Module):
    """x (..., d_model) -> (..., d_model), through the experts that the router chooses.

    The router takes the top k of a softmax and normalizes their weights to sum 1, as in Mixtral
    (arXiv 2401.04088). `MoEConfig` explains the arguments.

    A forward pass sets `load` (expert,), the fraction of the token–expert pairs for each expert. It
    also sets `auxiliary_loss`, the weighted sum of two losses:

    - balance, num_experts · Σ_e f_e P_e, where f_e is the number of choices of e per token and P_e
      is the mean probability of e. This loss is smallest when f and P are uniform (arXiv
      2101.03961, section 2.2).
    - z, the mean of (log Σ exp logits)², which keeps logits small (arXiv 2202.08906, section 3.3).
    """

    # These are the values before the first forward pass, and after a copy.
    auxiliary_loss: Tensor = torch.zeros(())
    load: Tensor = torch.zeros(0)

    def __init__(
        self,
        d_model: int,
        d_ff: int,
        num_experts: int,
        num_active: int,
        *,
        num_shared: int = 0,
        balance_weight: float = 0.01,
        z_weight: float = 0.001,
        jitter: float = 0.0,
    ) -> None:
        super().__init__()
        self.num_active = num_active
        self.balance_weight = balance_weight
        self.z_weight = z_weight
        self.jitter: nn.Module = Jitter(jitter) if jitter else nn.Identity()
        self.router = Linear(d_model, num_experts)
        self.experts = Experts(num_experts, d_model, d_ff)
        self.shared: nn.Module = SwiGLU(d_model, num_shared * d_ff) if num_shared else Nothing()

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.reshape(-1, x.shape[-1])
        logits = self.router(self.jitter(tokens)).float()
        probabilities = logits.softmax(-1)
        weights, chosen = probabilities.topk(self.num_active, dim=-1)  # (token, choice) both
        weights = weights / weights.sum(-1, keepdim=True)
        counts = torch.bincount(chosen.flatten(), minlength=logits.shape[-1])
        self._account(logits, probabilities, counts)
        mixed = self.experts(tokens, chosen, weights.to(x.dtype), counts)
        return mixed.view_as(x) + self.shared(x)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the last results, because Python cannot copy a loss with an autograd graph."""
        state = dict(self.__dict__)
        for name in ("auxiliary_loss", "load"):
            state.pop(name, None)
        return state

    def _account(self, logits: Tensor, probabilities: Tensor, counts: Tensor) -> None:
        num_tokens, num_experts = logits.shape
        balance = num_experts * (counts / num_tokens * probabilities.mean(0)).sum()
        z = logits.logsumexp(-1).square().mean()
        self.auxiliary_loss = self.balance_weight * balance + self.z_weight * z
        self.load = counts / counts.sum()


class Experts(nn.Module):
    """The SwiGLUs of all experts, with stacked matrices (expert, out, in)."""

    def __init__(self, num_experts: int, d_model: int, d_ff: int) -> None:
        super().__init__()
        self.gate_proj = nn.Parameter(torch.empty(num_experts, d_ff, d_model))
        self.up_proj = nn.Parameter(torch.empty(num_experts, d_ff, d_model))
        self.down_proj = nn.Parameter(torch.empty(num_experts, d_model, d_ff))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        for weight in self.parameters():
            truncated_normal_(weight, 1 / math.sqrt(weight.shape[-1]))

    def forward(self, tokens: Tensor, chosen: Tensor, weights: Tensor, counts: Tensor) -> Tensor:
        """tokens (token, d_model), chosen and weights (token, choice), counts (expert,)
        -> (token, d_model): the weighted sum of the chosen experts.

        counts[e] is the number of times that `chosen` contains e.
        """
        order = chosen.flatten().argsort(stable=True)  # (token · choice): pairs sorted by expert
        owner = order // chosen.shape[-1]  # the token of each pair
        x = tokens[owner]
        hidden = F.silu(grouped_linear(x, self.gate_proj, counts))
        hidden = hidden * grouped_linear(x, self.up_proj, counts)
        y = grouped_linear(hidden, self.down_proj, counts) * weights.flatten()[order, None]
        return torch.zeros_like(tokens, dtype=y.dtype).index_add(0, owner, y)

    def extra_repr(self) -> str:
        num_experts, d_ff, d_model = self.gate_proj.shape
        return f"{num_experts}, {d_model}, {d_ff}"


def grouped_linear(x: Tensor, weight: Tensor, counts: Tensor) -> Tensor:
    """x (row, in), weight (group, out, in), counts (group,) -> (row, out).

    The first counts[0] rows go through weight[0], the next counts[1] through weight[1], and so on.
    If torch's kernel accepts the dtype and the sizes, the function calls this kernel once.
    Otherwise it calls `grouped_loop`.
    """
    device, dtype = x.device.type, x.dtype
    if torch.is_autocast_enabled(device):  # the kernel ignores autocast
        dtype = torch.get_autocast_dtype(device)
    # The kernel accepts floats of 2 or 4 bytes, if the bytes of a row are a multiple of 16. When
    # compiled, it accepts only bf16.
    compiled = torch.compiler.is_compiling() and dtype != torch.bfloat16
    if (
        compiled
        or dtype.itemsize > 4
        or any(size * dtype.itemsize % 16 for size in weight.shape[1:])
    ):
        return grouped_loop(x, weight, counts)
    ends = counts.cumsum(0).to(torch.int32)
    return F.grouped_mm(x.to(dtype), weight.to(dtype).mT, offs=ends)


def grouped_loop(x: Tensor, weight: Tensor, counts: Tensor) -> Tensor:
    """Compute `grouped_linear` by its definition: one matrix product per group."""
    parts = x.split(counts.tolist())
    return torch.cat([F.linear(part, w) for part, w in zip(parts, weight, strict=True)])


class Jitter(nn.Module):
    """x -> x with each element times a random number in 1 ± eps.  arXiv 2101.03961

    In evaluation, x -> x.
    """

    def __init__(self, eps: float) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        return x * torch.empty_like(x).uniform_(1 - self.eps, 1 + self.eps)


class Nothing(nn.Module):
    """The layer that replaces shared experts in a model without shared experts: x -> 0."""

    def forward(self, x: Tensor) -> Tensor:
        return x.new_zeros(())
