"""The loss on data that a run is not trained on, the same on any number of ranks; and whether a
figure can be believed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from scratchlm.data.batches import Batch
from scratchlm.devices.ranks import Ranks, shared
from scratchlm.errors import NumericalError
from scratchlm.functional import IGNORED
from scratchlm.training.log import bits_per_byte

_NAMES = {"loss": "loss", "grad_norm": "gradient norm", "val_loss": "validation loss"}


def check_finite(record: Mapping[str, Any], *keys: str) -> None:
    """NumericalError, with its step, for a figure that is infinite or not a number."""
    for key in keys:
        if not math.isfinite(record[key]):
            raise NumericalError(
                f"the {_NAMES[key]} is not finite ({record[key]} at step {record['step']}); lower "
                "the learning rate, lengthen the warm-up, or check the data"
            )


@torch.no_grad()
def mean_loss(
    nats_of: Callable[[Tensor, Tensor], Tensor],
    batches: Iterable[Batch],
    ranks: Ranks,
    bytes_of: Tensor | None = None,
) -> dict[str, float]:
    """`val_loss`, nats a target, and `val_bits_per_byte` where bytes_of (vocab,) is known.

    nats_of: inputs, targets (batch, seq) -> the sum over the targets. Every target weighs the same,
    whatever batch it is in. The device is waited for once.
    """
    sums: list[Tensor] = []
    count, text_bytes = 0, 0
    for inputs, targets in shared(batches, ranks):
        sums.append(nats_of(inputs, targets))
        counted = targets[targets != IGNORED]
        count += counted.numel()
        if bytes_of is not None:
            text_bytes += int(bytes_of[counted].sum())
    nats = sum(torch.stack(sums).tolist()) if sums else 0.0
    everyones = ranks.gather((nats, count, text_bytes))
    nats, count, text_bytes = (sum(each) for each in zip(*everyones, strict=True))
    if count == 0:
        raise ValueError("no target counts in the validation data (all are -100); mask fewer")
    loss = nats / count
    if not text_bytes:
        return {"val_loss": loss}
    return {"val_loss": loss, "val_bits_per_byte": bits_per_byte(loss, text_bytes / count)}
