"""The micro-batches of a step, and the rows of them that one rank computes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol

from torch import Tensor

from scratchlm.devices.batch import Batch
from scratchlm.devices.ranks import Ranks, Share
from scratchlm.training.trainer_config import TrainerConfig


class Batches(Protocol):
    """A pure function: micro-step -> batch."""

    def batch(self, step: int) -> Batch: ...


class EpochBatches(Batches, Protocol):
    """The batches of a whole run: random rows, by epoch."""

    windows_per_epoch: int
    context_length: int

    def told_of_rows(self) -> Iterator[str]: ...


class StepBatches(NamedTuple):
    """One rank's part of a step.

    The loss of `micro` is a sum of `num_terms` terms. All ranks together do `num_forward` forward
    passes.
    """

    micro: list[Batch]
    num_terms: int
    num_forward: int


class MicroBatches:
    """A stream of micro-batches. `config` divides it into steps. The ranks divide each step.

    pinned: the batches are in pinned memory, because a CUDA device copies from it asynchronously.
    """

    def __init__(
        self, batches: Batches, config: TrainerConfig, ranks: Ranks, *, pinned: bool
    ) -> None:
        self.batches, self.config, self.ranks, self.pinned = batches, config, ranks, pinned

    def of(self, step: int) -> StepBatches:
        """Return the batches of `step` (from 0). `of` is pure, so a thread can load ahead."""
        number = self.config.micro_batches(step)
        share = Share.of(self.ranks, number, self.config.batch_size)
        indices = share.indices(self.config.first_micro_batch(step), number)
        micro = [share.rows(self.batches.batch(index)) for index in indices]
        num_terms = sum(batch.num_terms() for batch in micro)
        if num_terms == 0 and self.ranks.size == 1:
            raise ValueError(
                f"each step needs a target (all are -100 at step {step + 1}); mask fewer targets"
            )
        if self.pinned:
            micro = [batch.each(Tensor.pin_memory) for batch in micro]
        return StepBatches(micro, num_terms, number * share.parts)

    def cursor(self, steps: int) -> dict[str, int]:
        """Return the position of the stream after `steps` steps, for a checkpoint."""
        return {"seed": self.config.seed, "micro_batch": self.config.first_micro_batch(steps)}
