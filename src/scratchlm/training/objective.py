"""The trainer's loss as a module, so that torch compiles and shards it as one."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from scratchlm.functional import IGNORED
from scratchlm.kernels.linear_cross_entropy import linear_cross_entropy
from scratchlm.model.transformer import Transformer


class Objective(nn.Module):
    """inputs, targets, first (batch, seq) -> loss, figures for the log, routers' loss.

    loss = Σ over targets other than -100 of (cross-entropy + z_loss · logsumexp(logits)²)

    All values are 0-dim tensors. The loss and the figures {name: value} are sums, so micro-batches
    and ranks add up to one large batch. The figures have no gradient. Here the only figure is
    `loss`, the cross-entropy alone. The routers' loss is a mean over the layers, and 0 without
    experts. A `Transformer` uses a kernel that fuses the head with the loss: only a chunk of the
    logits exists at once. Any other module returns logits (batch, seq, vocab), and cannot separate
    documents: `first` must be None. `Batch` explains the arguments.
    """

    def __init__(self, model: nn.Module, z_loss: float = 0.0) -> None:
        super().__init__()
        self.model, self.z_loss = model, z_loss

    def forward(
        self, inputs: Tensor, targets: Tensor, first: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        if isinstance(self.model, Transformer):
            hidden, head = self.model.head(self.model.hidden(inputs, first=first))
            cap = self.model.config.logit_softcap
            loss, nats = linear_cross_entropy(
                hidden, head, targets, z_loss=self.z_loss, softcap=cap
            )
            routers = self.model.auxiliary_loss()
            return loss, {"loss": nats}, nats.new_zeros(()) if routers is None else routers
        if first is not None:
            raise ValueError(
                f"only a Transformer can separate documents ({type(self.model).__name__}); remove "
                "`first` from the batches"
            )
        logits, targets = self.model(inputs).float().flatten(0, 1), targets.flatten()
        nats = F.cross_entropy(logits, targets, ignore_index=IGNORED, reduction="sum")
        squares = logits.logsumexp(-1)[targets != IGNORED].square().sum()
        return nats + self.z_loss * squares, {"loss": nats.detach()}, nats.new_zeros(())
