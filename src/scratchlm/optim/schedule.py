"""Learning rates as pure functions of the step.

Every schedule rises linearly from 0 at step 0 to `max_lr` at `warmup_steps`. It reaches `min_lr` at
`total_steps`, which includes the warm-up, and then stays `min_lr`. Every schedule raises ValueError
if steps or rates contradict each other.
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
    """Return min_lr + (max_lr − min_lr)·(1 + cos πp)/2, where p goes from 0 to 1 after warm-up.

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
    """Return a rate that stays `max_lr`, and decays to `min_lr` in the last `decay_steps` steps.

    In the decay p goes from 0 to 1, and the rate is min_lr + (max_lr − min_lr)·d. The factor d is
    1 − p (linear) or 1 − √p (sqrt). sqrt falls fast at first, and had the lowest loss in
    2405.18392. The rate is constant between the warm-up and the decay. So the decay can start from
    any checkpoint of this constant part, with another `total_steps`.

    Hu et al., 2404.06395.
    """
    _check(step, max_lr, min_lr, warmup_steps, total_steps)
    if not 0 <= decay_steps <= total_steps - warmup_steps:
        raise ValueError(
            f"decay_steps ({decay_steps}) must be from 0 to total_steps - warmup_steps "
            f"({total_steps} - {warmup_steps}); shorten the decay or the warm-up"
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
    """Return a rate that falls linearly from `max_lr` to `min_lr` after warm-up."""
    return wsd_schedule(
        step,
        max_lr=max_lr,
        min_lr=min_lr,
        warmup_steps=warmup_steps,
        decay_steps=max(0, total_steps - warmup_steps),  # so `_check` reports a long warm-up
        total_steps=total_steps,
    )


def _check(step: int, max_lr: float, min_lr: float, warmup_steps: int, total_steps: int) -> None:
    if step < 0:
        raise ValueError(f"step must be at least 0 ({step}); count steps from 0")
    if not 0 <= min_lr <= max_lr < math.inf:
        raise ValueError(
            f"rates must satisfy 0 <= min_lr <= max_lr (min_lr {min_lr}, max_lr {max_lr}); "
            "decrease min_lr or increase max_lr"
        )
    if not 0 <= warmup_steps <= total_steps:
        raise ValueError(
            f"warmup_steps ({warmup_steps}) must be from 0 to total_steps ({total_steps}); "
            "shorten the warm-up, or train for more steps"
        )
