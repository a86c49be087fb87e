"""A batch: what one forward pass of training or validation reads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from scratchlm.functional import IGNORED


@dataclass(frozen=True, eq=False)
class Batch:
    """inputs, targets: (batch, seq) int64. The loss ignores target -100.

    first: (batch, seq) int32, the first input of the same row that each input may attend to. So
    each input attends only to its own document. None: each input attends to the whole row before
    it, across all documents.

    pairs: (batch, seq) int32, for training on preferences. The pairs of a row have the numbers 1,
    2, …. A place of pair k has k in the chosen answer and its prompt, and −k in the rejected answer
    and its prompt. It has 0 in the padding.
    """

    inputs: Tensor
    targets: Tensor
    first: Tensor | None = None
    pairs: Tensor | None = None

    def each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        """Return the batch with `change` of each tensor."""
        return Batch(**{name: change(tensor) for name, tensor in self.given().items()})

    def given(self) -> dict[str, Tensor]:
        """Return the tensors that are not None, by name: the arguments of an objective."""
        return {name: tensor for name, tensor in vars(self).items() if tensor is not None}

    def num_terms(self) -> int:
        """Return the number of terms in the sum that is the loss: pairs, or targets."""
        counted = self.targets != IGNORED
        if self.pairs is None:
            return int(counted.sum())
        return int(self.pairs.where(counted, 0).amax(1).sum())  # each pair has targets
