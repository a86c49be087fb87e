"""The time limit of a run: how many steps still fit if the pace differs from the plan.

`timing.steps_that_fit` makes the plan. If the machine becomes slower later, `TimeLimit` reduces
the number of steps during the run. If the machine was only busy during the timing, `TimeLimit`
increases the number, but only while a longer run would still have the same learning rate.
"""

from __future__ import annotations

import bisect
import time
from collections.abc import Callable
from dataclasses import dataclass

_SETTLED = 0.05  # the pace of a run is reliable after this fraction of the time
_EARLY = 0.01  # the same for a pace that allows a longer run
_LONGER = 1.1  # a run becomes longer only by at least this factor
_UNSURE = 0.06  # a run may be late by this fraction of the remaining time, and keep its length


@dataclass(frozen=True)
class Costs:
    """Seconds that parts of a run take.

    beside: the mean time that validation, saving and samples add to a step. end: the time of the
    last validation, checkpoint and sample.
    """

    step: float
    beside: float
    end: float


class TimeLimit:
    """The time limit of a process that began at `began` (`time.monotonic`) and lasts `seconds`.

    The plan keeps `margin` seconds free. If less than a third of this margin would remain, the
    run takes fewer steps.
    """

    def __init__(self, seconds: float, began: float) -> None:
        self.seconds, self.end = seconds, began + seconds
        self.margin = 1.5 + 0.03 * seconds
        self.costs = Costs(0.0, 0.0, 0.0)
        # This function sets another number of steps. It returns False if the schedule forbids that.
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
        """Return how many steps can finish before the time limit.

        The result is `iterations`, or fewer if the run is too slow for them, or more if there is
        time for many more. step: the number of finished steps. If n steps remain, the n steps that
        finished last predict their pace.
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
        # A far end is less sure, because other work may slow the run only for a short time.
        doubt = self.margin / 3 - _UNSURE * rest * pace
        if now + rest * pace + self.costs.end <= self.end - doubt:
            return iterations
        room = self.end - 2 / 3 * self.margin - now - self.costs.end
        return min(iterations, step + max(0, int(room / pace)))
