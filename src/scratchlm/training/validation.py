"""The validation loss, the same on any number of ranks, and a check for NaN and infinity."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from scratchlm.devices.batch import Batch
from scratchlm.devices.ranks import Ranks, shared
from scratchlm.errors import NumericalError
from scratchlm.functional import IGNORED

_NAMES = {"loss": "loss", "grad_norm": "gradient norm", "val_loss": "validation loss"}


def check_finite(record: Mapping[str, Any], *keys: str) -> None:
    """Raise a NumericalError, with the step, if a figure is infinite or not a number."""
    for key in keys:
        if not math.isfinite(record[key]):
            raise NumericalError(
                f"the {_NAMES[key]} is not finite ({record[key]} at step {record['step']}); reduce "
                "the learning rate, increase the warm-up steps, or check the data"
            )


@torch.no_grad()
def mean_loss(
    nats_of: Callable[[Batch], Tensor],
    batches: Iterable[Batch],
    ranks: Ranks,
    bytes_of: Tensor | None = None,
) -> dict[str, float]:
    """Return `val_loss` in nats per target, and `val_bits_per_byte` with `bytes_of`.

    nats_of: batch -> the sum over the targets. bytes_of: (vocab,) bytes of
    each id's text. Every target has the same weight, in any batch. The GPU is synchronized once.
    """
    sums: list[Tensor] = []
    count, text_bytes = 0, 0
    for batch in shared(batches, ranks):
        sums.append(nats_of(batch))
        counted = batch.targets[batch.targets != IGNORED]
        count += counted.numel()
        if bytes_of is not None:
            text_bytes += int(bytes_of[counted].sum())
    nats = sum(torch.stack(sums).tolist()) if sums else 0.0
    everyones = ranks.gather((nats, count, text_bytes))
    nats, count, text_bytes = (sum(each) for each in zip(*everyones, strict=True))
    if count == 0:
        raise ValueError("the validation data needs a target (all are -100); mask fewer targets")
    loss = nats / count
    if not text_bytes:
        return {"val_loss": loss}
    return {"val_loss": loss, "val_bits_per_byte": bits_per_byte(loss, text_bytes / count)}


def bits_per_byte(nats_per_token: float, bytes_per_token: float) -> float:
    """Return the loss in bits per byte of text: loss / ln 2 / bytes_per_token.

    Bits per byte are comparable between different tokenizers. A loss per token is not.
    """
    return nats_per_token / math.log(2) / bytes_per_token
