"""The micro-batches of a step: which of them, and which of their rows, are one rank's."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from scratchlm.data.batches import Batch
from scratchlm.devices.ranks import Ranks, Share
from scratchlm.functional import IGNORED
from scratchlm.training.trainer_config import TrainerConfig


class Batches(Protocol):
    """A pure function of the micro-step: (inputs, targets), both (batch, seq), -100 not counted."""

    def batch(self, step: int) -> Batch: ...


class StepBatches(NamedTuple):
    """One rank's share of a step. `num_targets` are those of `micro`, `num_forward` the forward
    passes of all ranks."""

    micro: list[Batch]
    num_targets: int
    num_forward: int


class MicroBatches:
    """A stream of micro-batches, cut into steps as `config` says and shared by the ranks.

    Pinned where a CUDA device will fetch them.
    """

    def __init__(
        self, batches: Batches, config: TrainerConfig, ranks: Ranks, *, pinned: bool
    ) -> None:
        self.batches, self.config, self.ranks, self.pinned = batches, config, ranks, pinned

    def of(self, step: int) -> StepBatches:
        """Those of a step, counted from 0; a pure function, so that a thread may load ahead."""
        number = self.config.micro_batches(step)
        share = Share.of(self.ranks, number, self.config.batch_size)
        indices = share.indices(self.config.first_micro_batch(step), number)
        micro = [share.rows(self.batches.batch(index)) for index in indices]
        num_targets = sum(int((targets != IGNORED).sum()) for _, targets in micro)
        if num_targets == 0 and self.ranks.size == 1:
            raise ValueError(f"no target counts (all are -100 at step {step + 1}); mask fewer")
        if self.pinned:
            micro = [(inputs.pin_memory(), targets.pin_memory()) for inputs, targets in micro]
        return StepBatches(micro, num_targets, number * share.parts)

    def cursor(self, steps: int) -> dict[str, int]:
        """Where the stream stands after so many steps, for a checkpoint."""
        return {"seed": self.config.seed, "micro_batch": self.config.first_micro_batch(steps)}
