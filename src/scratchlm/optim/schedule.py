"""Learning rates as pure functions of the step.

All warm up linearly from 0 at step 0 to `max_lr` at `warmup_steps`, reach `min_lr` at
`total_steps` (warm-up included), and stay there. ValueError for steps or rates that contradict
each other.
"""

from __future__ import annotations

import math
from typing import Literal

from scratchlm.config import takes_synonyms

DecayShape = Literal["linear", "sqrt"]


@takes_synonyms()
def cosine_schedule(
    step: int, *, max_lr: float, min_lr: float, warmup_steps: int, total_steps: int
) -> float:
    """min_lr + (max_lr − min_lr)·(1 + cos πp)/2 after warm-up, p the part of the way to the end.

    Loshchilov & Hutter, 1608.03983, without restarts.
    """
    _check(step, max_lr, min_lr, warmup_steps, total_steps)
    if step >= total_steps:
        return min_lr
    if step < warmup_steps:
        return max_lr * step / warmup_steps
    progress = (step - warmup_steps) / (total_steps - warmup_steps)
    return min_lr + (max_lr - min_lr) * 0.5 * (1 + math.cos(math.pi * progress))


@takes_synonyms()
def wsd_schedule(
    step: int,
    *,
    max_lr: float,
    min_lr: float,
    warmup_steps: int,
    decay_steps: int,
    total_steps: int,
    decay_shape: DecayShape = "linear",
) -> float:
    """Warm-up, stable, decay: `max_lr` until `decay_steps` from the end, then down to `min_lr`.

    With p the part of the decay that is done, the way left is 1 − p (linear) or 1 − √p (sqrt,
    which falls fast at first and lost least in 2405.18392). Since the rate is constant before it,
    the decay may be begun from any checkpoint of the stable part, with another `total_steps`.

    Hu et al., 2404.06395.
    """
    _check(step, max_lr, min_lr, warmup_steps, total_steps)
    if not 0 <= decay_steps <= total_steps - warmup_steps:
        raise ValueError(
            f"decay_steps must be between 0 and total_steps - warmup_steps ({decay_steps}, "
            f"{total_steps} - {warmup_steps}); shorten the decay or the warm-up"
        )
    if step >= total_steps:
        return min_lr
    if step < warmup_steps:
        return max_lr * step / warmup_steps
    if step <= total_steps - decay_steps:
        return max_lr
    if decay_shape == "linear":
        return min_lr + (max_lr - min_lr) * (total_steps - step) / decay_steps
    done = (step - (total_steps - decay_steps)) / decay_steps
    return min_lr + (max_lr - min_lr) * (1 - math.sqrt(done))


@takes_synonyms()
def linear_schedule(
    step: int, *, max_lr: float, min_lr: float, warmup_steps: int, total_steps: int
) -> float:
    """Linear from `max_lr` to `min_lr` after warm-up."""
    return wsd_schedule(
        step,
        max_lr=max_lr,
        min_lr=min_lr,
        warmup_steps=warmup_steps,
        decay_steps=max(0, total_steps - warmup_steps),  # a warm-up too long is told as such
        total_steps=total_steps,
    )


def _check(step: int, max_lr: float, min_lr: float, warmup_steps: int, total_steps: int) -> None:
    if step < 0:
        raise ValueError(f"step must be at least 0 ({step}); count steps from 0")
    if not 0 <= min_lr <= max_lr < math.inf:
        raise ValueError(
            f"rates must satisfy 0 <= min_lr <= max_lr (min_lr {min_lr}, max_lr {max_lr}); "
            "lower min_lr or raise max_lr"
        )
    if not 0 <= warmup_steps <= total_steps:
        raise ValueError(
            f"warmup_steps must be between 0 and total_steps ({warmup_steps}, {total_steps}); "
            "shorten the warm-up or train longer"
        )
