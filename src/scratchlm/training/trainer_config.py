"""`TrainerConfig`: the length of a run, the size of a step, and when the run writes what."""

from __future__ import annotations

import bisect
import functools
import itertools
import math
from dataclasses import dataclass
from typing import Literal

from scratchlm.config import takes_synonyms


@takes_synonyms()
@dataclass(frozen=True)
class TrainerConfig:
    """The settings of the section `train`.

    iterations, epochs, minutes: the length of the run in steps, in passes over the data, or in the
    time of the whole process. batch_size: sequences in a micro-batch. accumulate: micro-batches in
    a step, on all ranks together. Their number grows from `ramp_from` to `accumulate` in the first
    `ramp_steps` steps (arXiv 2005.14165, table 2.1). z_loss: the loss adds z_loss · logsumexp² of
    the logits (2204.02311). dpo_beta: see `functional.dpo_loss`. eval_every, save_every: 0 means
    only at the last step, which always validates and saves. eval_batches: 0 means the whole
    validation set. keep_last: checkpoints that the run keeps beside the best; 0 means all.
    log_every: the GPU is synchronized only every `log_every` steps, a CPU at each step.
    sample_every: the run writes a sample of `sample_tokens` tokens every `sample_every` steps.
    init_from: the weights of a new run.
    """

    out: str | None = None
    init_from: str | None = None
    iterations: int | None = None
    epochs: float | None = None
    minutes: float | None = None
    batch_size: int = 32
    accumulate: int = 1
    ramp_from: int | None = None
    ramp_steps: int | None = None
    max_grad_norm: float = 1.0
    z_loss: float = 0.0
    dpo_beta: float = 0.1
    eval_every: int = 250
    eval_batches: int = 50
    save_every: int = 1000
    save_format: Literal["directory", "pt"] = "directory"
    keep_last: int = 10
    log_every: int = 10
    tensorboard: bool = False
    sample_every: int = 0
    sample_prompt: str = "\n"
    sample_tokens: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        lengths = [self.iterations, self.epochs, self.minutes]
        if lengths.count(None) < 2:
            given = ", ".join(str(each) for each in lengths)
            raise ValueError(
                f"iterations, epochs and minutes exclude each other ({given}); set only one of them"
            )
        ranges = {  # the least value, the most, and an example
            "iterations": (1, 10**12, 1000), "batch_size": (1, 10**6, 32),
            "accumulate": (1, 10**6, 4), "ramp_from": (1, 10**6, 1), "ramp_steps": (1, 10**7, 100),
            "eval_every": (0, 10**12, 250), "eval_batches": (0, 10**9, 50),
            "save_every": (0, 10**12, 1000), "keep_last": (0, 10**9, 10),
            "log_every": (1, 10**6, 10), "sample_every": (0, 10**12, 500),
            "sample_tokens": (1, 10**6, 100), "seed": (0, 2**63 - 1, 0),
        }  # fmt: skip
        for name, (least, most, example) in ranges.items():
            value = getattr(self, name)
            if value is not None and not least <= value <= most:
                bound = f"at least {least}" if value < least else f"at most {most}"
                raise ValueError(f"train.{name} must be {bound} ({value}); use e.g. {example}")
        if self.epochs is not None and not 0 < self.epochs < math.inf:
            raise ValueError(f"train.epochs must be above 0 and finite ({self.epochs}); use e.g. 1")
        if self.minutes is not None and not 0 < self.minutes <= 10**7:
            raise ValueError(
                f"train.minutes must be above 0 and at most {10**7} ({self.minutes}); use e.g. 60"
            )
        if not self.max_grad_norm > 0:
            raise ValueError(
                f"train.max_grad_norm must be above 0 ({self.max_grad_norm}); choose inf for no "
                "clipping"
            )
        if not 0 <= self.z_loss < math.inf:
            raise ValueError(
                f"train.z_loss must be finite and 0 or more ({self.z_loss}); choose 0 or 1e-4"
            )
        if not 0 < self.dpo_beta < math.inf:
            raise ValueError(
                f"train.dpo_beta must be above 0 and finite ({self.dpo_beta}); use e.g. 0.1"
            )
        if (self.ramp_from is None) != (self.ramp_steps is None):
            raise ValueError(
                f"ramp_from and ramp_steps need each other ({self.ramp_from}, {self.ramp_steps}); "
                "set both"
            )
        if self.ramp_from is not None and self.ramp_from > self.accumulate:
            raise ValueError(
                f"ramp_from must be at most accumulate ({self.ramp_from}, {self.accumulate}); "
                "reduce train.ramp_from, or increase train.accumulate"
            )

    def micro_batches(self, step: int) -> int:
        """Return the number of micro-batches in a step, counted from 0."""
        if self.ramp_from is None or self.ramp_steps is None or step >= self.ramp_steps:
            return self.accumulate
        return self.ramp_from + (self.accumulate - self.ramp_from) * step // self.ramp_steps

    def first_micro_batch(self, step: int) -> int:
        """Return the number of micro-batches before `step`: the cursor in their stream."""
        if self.ramp_steps is None:
            return step * self.accumulate
        before = _sums(self)
        return before[min(step, self.ramp_steps)] + self.accumulate * max(0, step - self.ramp_steps)

    def steps_for(self, micro_batches: float) -> int:
        """Return the smallest number of steps, at least 1, that contain so many micro-batches."""
        before = _sums(self)
        if micro_batches <= before[-1]:
            return max(1, bisect.bisect_left(before, micro_batches))
        return max(1, len(before) - 1 + math.ceil((micro_batches - before[-1]) / self.accumulate))


@functools.lru_cache(maxsize=4)
def _sums(config: TrainerConfig) -> list[int]:
    """Return how many micro-batches come before each step of the ramp, and before the next step."""
    steps = range(config.ramp_steps or 0)
    return list(itertools.accumulate((config.micro_batches(s) for s in steps), initial=0))
