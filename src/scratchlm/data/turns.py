"""The turns of the sources of a mixture: which source each window comes from.

After t windows, a source with the fraction w of the weights contributed c windows. |c − w t| < 1
for every t. "Take the source that lacks most" does not keep this bound: for many small weights its
error grows above 1. Tijdeman's rule keeps it (R. Tijdeman, "The chairman assignment problem",
Discrete Mathematics 32, 1980). For n sources its error is at most 1 − 1/(2n − 2).
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Counts = npt.NDArray[np.int64]


class Turns:
    """Choose the source of each window, from the number of the window alone.

    weights: whole numbers, which sum to D. After D windows each source had as many turns as its
    weight, so the turns repeat, and a table of D turns describes a run of any length.
    """

    def __init__(self, weights: Sequence[int]) -> None:
        self.weights = np.array(weights, dtype=np.int64)
        self.period = int(self.weights.sum())
        self._source = _one_period(weights)
        self._number = np.empty(self.period, dtype=np.int64)
        for source, weight in enumerate(weights):
            self._number[self._source == source] = np.arange(weight)

    def of(self, windows: Counts) -> tuple[Counts, Counts]:
        """windows: (n,) -> (n,) the source of each window, and (n,) its number in that source."""
        periods, places = np.divmod(windows, self.period)
        sources = self._source[places]
        return sources, periods * self.weights[sources] + self._number[places]

    def counts(self, windows: int) -> list[int]:
        """Return how many of the first `windows` windows come from each source."""
        periods, rest = divmod(windows, self.period)
        begun = np.bincount(self._source[:rest], minlength=len(self.weights))
        return (periods * self.weights + begun).tolist()


def _one_period(weights: Sequence[int]) -> Counts:
    """Return the source of each window of one period, by Tijdeman's rule.

    Turn k (from 1) of a source with weight a must be at a time t (from 1) with k − B ≤ a t / D and
    a (t − 1) / D ≤ k − 1 + B, where B = 1 − 1/(2n − 2) is the largest error. Among the sources
    whose turn may be now, the source whose turn must be earliest is next. All numbers are whole, so
    every machine finds the same turns.
    """
    period = sum(weights)
    parts = max(1, 2 * len(weights) - 2)  # B = (parts - 1) / parts
    waiting: list[tuple[int, int, int]] = []  # (first possible time, source, its turn)
    ready: list[tuple[int, int, int]] = []  # (last possible time, source, its turn)
    turns = np.empty(period, dtype=np.int64)
    for source, weight in enumerate(weights):
        heapq.heappush(waiting, (_first(1, parts, weight, period), source, 1))
    for time in range(1, period + 1):
        while waiting and waiting[0][0] <= time:
            _, source, turn = heapq.heappop(waiting)
            last = ((turn - 1) * parts + parts - 1) * period // (parts * weights[source]) + 1
            heapq.heappush(ready, (last, source, turn))
        last, source, turn = heapq.heappop(ready)
        assert time <= last  # Tijdeman's theorem
        turns[time - 1] = source
        first = _first(turn + 1, parts, weights[source], period)
        heapq.heappush(waiting, (first, source, turn + 1))
    return turns


def _first(turn: int, parts: int, weight: int, period: int) -> int:
    """Return the first possible time of a turn: the smallest t with turn − B ≤ weight t / D."""
    return -(-(turn * parts - parts + 1) * period // (parts * weight))
