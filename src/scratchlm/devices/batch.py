"""A batch: what one forward pass of training or validation reads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Batch:
    """inputs, targets: (batch, seq) int64. The loss ignores target -100.

    first: (batch, seq) int32, the first input of the same row that each input may attend to. So
    each input attends only to its own document. None: each input attends to the whole row before
    it, across all documents.
    """

    inputs: Tensor
    targets: Tensor
    first: Tensor | None = None

    def each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        """Return the batch with `change` of each tensor."""
        first = None if self.first is None else change(self.first)
        return Batch(change(self.inputs), change(self.targets), first)
