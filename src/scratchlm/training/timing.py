"""How many steps of a run end within its time limit.

`steps_that_fit` times a few steps at learning rate 0 and then removes their traces. So a run with
`minutes` takes the same steps as a run with that number of `iterations`, and resumes in the same
way.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Sized
from typing import cast

import torch

from scratchlm.devices.runtime import rng_state, set_rng_state
from scratchlm.training.time_limit import Costs, TimeLimit
from scratchlm.training.trainer import Trainer
from scratchlm.training.validation import mean_figures

_TIMED = 0.02  # the timed steps take this fraction of the time
_WRITTEN = 2e8  # bytes that a disk writes in a second, with their checksum


def steps_that_fit(run: Trainer, limit: TimeLimit) -> int:
    """Return how many steps from now on end in time, and set `limit.costs`.

    run: a trainer that has not begun. Its state does not change. All ranks get the same number.
    Raise ValueError if no step ends in time.
    """
    limit.costs = costs = _measured(run, limit)
    room = limit.left() - limit.margin - costs.end
    steps, limit.costs = run.ranks.gather((int(room / (costs.step + costs.beside)), costs))[0]
    if steps < 1:
        raise ValueError(
            f"no step fits into {limit.seconds:.0f} seconds ({limit.seconds - limit.left():.0f} "
            f"have passed; a step takes {costs.step:.2g}, the end takes "
            f"{costs.end + limit.margin:.2g}); increase --minutes, or set --iterations"
        )
    # We count in micro-batches, because the first steps of a ramp contain fewer.
    return run.config.steps_for(steps * run.config.accumulate)


def _measured(run: Trainer, limit: TimeLimit) -> Costs:
    before, scale, schedule = rng_state(), run.scaler.state_dict(), run.schedule
    run.schedule = lambda step: 0.0
    batches = run.micro_batches.of(run.config.ramp_steps or 0)  # a step of full size

    def seconds_of_a_step() -> float:
        began = time.monotonic()
        float(run.train_step(batches)["loss"])  # synchronizes the device
        return time.monotonic() - began

    seconds_of_a_step()  # this step compiles, so it does not count
    timed = [seconds_of_a_step() for _ in range(2)]
    while run.ranks.any(sum(timed) < _TIMED * limit.seconds, run.device):
        timed.append(seconds_of_a_step())
    costs = _costs(run, sum(timed) / len(timed))
    run.optimizer.zero_grad(set_to_none=True)
    run.optimizer.state.clear()
    if scale:
        run.scaler.load_state_dict(scale)
    run.schedule, run.step, run.tokens = schedule, 0, 0
    set_rng_state(before)
    return costs


def _costs(run: Trainer, step: float) -> Costs:
    config = run.config
    validation = _seconds_of_validation(run) if run.val_batches else 0.0
    # A checkpoint holds the weights and two averages of the optimizer.
    size = 3 * sum(param.numel() * param.element_size() for param in run.params)
    saving = size / _WRITTEN
    sample = 0.0
    if run.sample is not None and config.sample_every and run.ranks.first:
        began = time.monotonic()
        run.sample(run.model)
        sample = time.monotonic() - began
    beside = [
        seconds / every
        for seconds, every in (
            (validation, config.eval_every), (saving, config.save_every),
            (sample, config.sample_every),
        )
        if every
    ]  # fmt: skip
    return Costs(step, math.fsum(beside), validation + saving + sample)


@torch.no_grad()
def _seconds_of_validation(run: Trainer) -> float:
    """Estimate the seconds of a whole validation from a few batches. The first one compiles."""
    run.objective.eval()
    size = run.ranks.size
    number = -(-len(cast(Sized, run.val_batches)) // size)
    timed = min(3, number)
    for count in (1, timed):
        few = list(itertools.islice(run.val_batches, count * size))
        began = time.monotonic()
        mean_figures(run.figures, few, run.ranks, run.bytes_of)
        seconds = time.monotonic() - began
    return seconds * number / timed
