"""A run that ends within a given time: how many steps fit, and what happens if the pace changes.

`steps_that_fit` times a few steps at learning rate 0 and then removes their traces. So a run of
`minutes` takes the same steps as a run of as many `iterations`, and resumes like one. If the
machine becomes slower later, `TimeLimit` lowers the number of steps during the run. If the machine
was only busy during the timing, `TimeLimit` raises the number, but only while a longer run would
still have the same learning rate.
"""

from __future__ import annotations

import bisect
import itertools
import math
import time
from collections.abc import Callable, Sized
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch

from scratchlm.devices.runtime import rng_state, set_rng_state
from scratchlm.training.validation import mean_loss

if TYPE_CHECKING:
    from scratchlm.training.progress import Progress
    from scratchlm.training.trainer import Trainer

_TIMED = 0.02  # the timed steps take this fraction of the time
_SETTLED = 0.05  # the pace of a run is reliable after this fraction of the time
_EARLY = 0.01  # the same for a pace that allows a longer run
_LONGER = 1.1  # a run becomes longer only by at least this factor
_UNSURE = 0.06  # a run may be late by this fraction of the time left, and keep its length
_WRITTEN = 2e8  # bytes a second that a disk writes, with their checksum


@dataclass(frozen=True)
class Costs:
    """Seconds that parts of a run take.

    beside: what validation, saving and samples add to a step, on average. end: the last validation,
    checkpoint and sample.
    """

    step: float
    beside: float
    end: float


class TimeLimit:
    """The time limit of a process that began at `began` (`time.monotonic`) and lasts `seconds`.

    The plan keeps `margin` seconds free. If less than a third of them would remain, the run takes
    fewer steps.
    """

    def __init__(self, seconds: float, began: float) -> None:
        self.seconds, self.end = seconds, began + seconds
        self.margin = 1.5 + 0.03 * seconds
        self.costs = Costs(0.0, 0.0, 0.0)
        # Gives the run another number of steps; False if its schedule does not allow that.
        self.replanned: Callable[[int], bool] = lambda steps: False
        self._since = time.monotonic()
        self._steps, self._trained = [0], [0.0]

    def left(self) -> float:
        return self.end - time.monotonic()

    def restart_clock(self, step: int) -> None:
        """Restart the clock after validation or a checkpoint: the pace does not count them."""
        self._since = time.monotonic()
        if len(self._steps) == 1:
            self._steps[0] = step

    def total(self, step: int, iterations: int) -> int:
        """Return the number of steps that end in time: `iterations`, fewer, or clearly more.

        step: the steps that are done. The last n of them predict the pace of the n that remain.
        """
        now = time.monotonic()
        if step > self._steps[-1]:
            self._trained.append(self._trained[-1] + now - self._since)
            self._steps.append(step)
            self._since = now
        rest = iterations - step
        if rest <= 0 or self._trained[-1] < _EARLY * self.seconds:
            return iterations
        first = min(bisect.bisect_left(self._steps, step - rest), len(self._steps) - 2)
        seconds = self._trained[-1] - self._trained[first]
        pace = seconds / (step - self._steps[first]) + self.costs.beside
        room = self.end - self.margin - now - self.costs.end
        if step + room / pace > _LONGER * iterations:
            return step + int(room / pace)
        if self._trained[-1] < _SETTLED * self.seconds:
            return iterations
        # A far end is less sure: other work may slow the run only for a while.
        doubt = self.margin / 3 - _UNSURE * rest * pace
        if now + rest * pace + self.costs.end <= self.end - doubt:
            return iterations
        room = self.end - 2 / 3 * self.margin - now - self.costs.end
        return min(iterations, step + max(0, int(room / pace)))


def steps_that_fit(run: Trainer, limit: TimeLimit) -> int:
    """Return how many steps from now on end in time, and set `limit.costs`.

    run: a trainer that has not begun; its state does not change. All ranks get the same number.
    ValueError if no step ends in time.
    """
    limit.costs = costs = _measured(run, limit)
    room = limit.left() - limit.margin - costs.end
    steps, limit.costs = run.ranks.gather((int(room / (costs.step + costs.beside)), costs))[0]
    if steps < 1:
        raise ValueError(
            f"no step fits into {limit.seconds:.0f} seconds ({limit.seconds - limit.left():.0f} "
            f"have passed; a step takes {costs.step:.2g}, the end {costs.end + limit.margin:.2g}); "
            "give more --minutes, or --iterations"
        )
    # We count in micro-batches, because the first steps of a ramp hold fewer.
    return run.config.steps_for(steps * run.config.accumulate)


def keep_within(run: Trainer, progress: Progress) -> None:
    """Change the number of steps of a run, on all ranks, if its limit allows fewer or more."""
    if run.limit is None:
        return
    before = run.iterations
    total = run.ranks.gather(run.limit.total(run.step, before))[0]
    if total != before and run.limit.replanned(total):
        changed = {"train.iterations": [before, total]}
        run.history = [*run.history, {"step": run.step, "changed": changed}]
        progress.set_total(total)


def _measured(run: Trainer, limit: TimeLimit) -> Costs:
    before, scale, schedule = rng_state(), run.scaler.state_dict(), run.schedule
    run.schedule = lambda step: 0.0
    batches = run.micro_batches.of(run.config.ramp_steps or 0)  # a step of full size

    def seconds_of_a_step() -> float:
        began = time.monotonic()
        float(run.train_step(batches)["loss"])  # synchronizes the device
        return time.monotonic() - began

    seconds_of_a_step()  # it compiles, so it does not count
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
        mean_loss(run.nats, few, run.ranks, run.bytes_of)
        seconds = time.monotonic() - began
    return seconds * number / timed
