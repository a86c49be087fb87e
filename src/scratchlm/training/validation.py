"""The validation figures, the same on any number of ranks, and a check for NaN and infinity."""

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
from scratchlm.training.progress import to_numbers

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
def mean_figures(
    figures_of: Callable[[Batch], dict[str, Tensor]],
    batches: Iterable[Batch],
    ranks: Ranks,
    bytes_of: Tensor | None = None,
) -> dict[str, float]:
    """Return the mean of each figure, such as `val_loss`, and `val_bits_per_byte` with `bytes_of`.

    figures_of: batch -> sums over the targets, or over the pairs, by name. bytes_of: (vocab,) bytes
    of each id's text. Every target has the same weight, in any batch. The GPU is synchronized once.
    """
    sums: list[dict[str, Any]] = []
    count, text_bytes = 0, 0
    for batch in shared(batches, ranks):
        sums.append(figures_of(batch))
        count += batch.num_terms()
        if bytes_of is not None:
            text_bytes += int(bytes_of[batch.targets[batch.targets != IGNORED]].sum())
    to_numbers(sums)
    everyones = ranks.gather((sums, count, text_bytes))
    count, text_bytes = (sum(each[i] for each in everyones) for i in (1, 2))
    if count == 0:
        raise ValueError("the validation data needs a target (all are -100); mask fewer targets")
    every = [each for sums, _, _ in everyones for each in sums]
    means = {f"val_{name}": sum(each[name] for each in every) / count for name in every[0]}
    if text_bytes:
        means["val_bits_per_byte"] = bits_per_byte(means["val_loss"], text_bytes / count)
    return means


def bits_per_byte(nats_per_token: float, bytes_per_token: float) -> float:
    """Return the loss in bits per byte of text: loss / ln 2 / bytes_per_token.

    Bits per byte are comparable between different tokenizers. A loss per token is not.
    """
    return nats_per_token / math.log(2) / bytes_per_token
