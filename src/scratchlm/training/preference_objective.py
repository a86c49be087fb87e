"""The loss of pairs of answers as a module: DPO (direct preference optimization)."""

from __future__ import annotations

import copy
import hashlib
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scratchlm.functional import IGNORED
from scratchlm.kernels.linear_log_probs import linear_log_probs
from scratchlm.model.transformer import Transformer


class PreferenceObjective(nn.Module):
    """inputs, targets, first, pairs (batch, seq) -> the three results of `Objective`.

    loss = Σ over pairs of −log σ(beta · margin).  DPO, arXiv 2305.18290, equation 7

    The margin of a pair is the sum of log π − log π_ref over the chosen answer, minus the same sum
    over the rejected answer. This is the fast version of `functional.dpo_loss`: no tensor contains
    all logits. `reference` is the model π_ref. It does not learn, and it uses no dropout. `Batch`
    explains the arguments.

    The figures are the sums of three values of each pair: the loss, whether the margin is above 0
    (`reward_accuracy`), and beta · margin (`reward_margin`).
    """

    def __init__(self, model: Transformer, reference: Transformer, beta: float = 0.1) -> None:
        super().__init__()
        self.model, self.reference, self.beta = model, reference, beta

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        self.reference.eval()
        return self

    def forward(
        self, inputs: Tensor, targets: Tensor, first: Tensor, pairs: Tensor
    ) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        with torch.no_grad():
            reference = _log_probs(self.reference, inputs, targets, first)
        ratios = _log_probs(self.model, inputs, targets, first) - reference
        routers = self.model.auxiliary_loss()
        margins, is_pair = margins_of(ratios, pairs.where(targets != IGNORED, 0))
        rewards = self.beta * margins  # 0 where there is no pair
        loss = -F.logsigmoid(rewards).where(is_pair, 0).sum()
        figures = {
            "loss": loss.detach(),
            "reward_accuracy": (rewards > 0).sum().to(loss.dtype),
            "reward_margin": rewards.detach().sum(),
        }
        return loss, figures, loss.new_zeros(()) if routers is None else routers


def margins_of(ratios: Tensor, pairs: Tensor) -> tuple[Tensor, Tensor]:
    """ratios (batch, seq), pairs (batch, seq) as in `Batch` -> margins (batch, pair) and whether
    the row has this pair (batch, pair).

    The margin of pair k of a row is Σ ratios where `pairs` is k − Σ ratios where `pairs` is −k.
    """
    number = pairs.abs().long()
    count = 1 + pairs.shape[-1] // 2  # a constant shape: a pair has at least two places
    margins = ratios.new_zeros(len(pairs), count).scatter_add(1, number, pairs.sign() * ratios)
    is_pair = torch.zeros_like(margins, dtype=torch.bool).scatter(1, number, True)
    return margins[:, 1:], is_pair[:, 1:]  # number 0 is no pair


def frozen_copy(model: Transformer) -> Transformer:
    """Return a copy that does not learn. It shares the weights that do not learn in `model`."""
    shared = {id(each): each for each in model.parameters() if not each.requires_grad}
    return copy.deepcopy(model, shared).requires_grad_(False).eval()


def weights_hash(model: nn.Module) -> str:
    """Return the SHA-256 of the names and the values of all weights, in hexadecimal."""
    digest = hashlib.sha256()
    for name, weight in model.state_dict().items():
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
        digest.update(weight.contiguous().view(torch.uint8).numpy(force=True))
    return digest.hexdigest()


def _log_probs(model: Transformer, inputs: Tensor, targets: Tensor, first: Tensor) -> Tensor:
    hidden, head = model.head(model.hidden(inputs, first=first))
    return linear_log_probs(hidden, head, targets, softcap=model.config.logit_softcap)
