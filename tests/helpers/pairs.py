"""Batches as pairs of tensors, and as values that tests compare."""

from __future__ import annotations

import torch
from torch import Tensor

from scratchlm.devices.batch import Batch


def pair(batch: Batch) -> tuple[Tensor, Tensor]:
    """Return inputs and targets of a batch that ignores documents."""
    assert batch.first is None
    return batch.inputs, batch.targets


def same(one: Batch, other: Batch) -> bool:
    """Return whether two batches are equal in each tensor."""
    assert (one.first is None) == (other.first is None)
    return all(
        torch.equal(getattr(one, name), getattr(other, name))
        for name in ("inputs", "targets", "first")
        if getattr(one, name) is not None
    )
