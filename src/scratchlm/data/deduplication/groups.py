"""Groups of similar documents: union-find, in which the first document represents its group."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int64]


class Groups:
    """Store for each of `count` documents an earlier document of the same group, or itself."""

    def __init__(self, count: int) -> None:
        self._earlier = np.arange(count)

    def join(self, first: Indices, second: Indices) -> None:
        """Put first[i] and second[i] into the same group, for all i. The order does not matter."""
        while len(first):
            first, second = self.firsts(first), self.firsts(second)
            differ = first != second
            first, second = first[differ], second[differ]
            np.minimum.at(self._earlier, np.maximum(first, second), np.minimum(first, second))

    def firsts(self, documents: Indices) -> Indices:
        """Return the first document of each document's group."""
        while True:
            earlier = self._earlier[documents]
            still_earlier = self._earlier[earlier]
            if (still_earlier == earlier).all():
                return earlier
            self._earlier[documents] = still_earlier  # halve the distance to the first document

    def repeated(self) -> Indices:
        """Return all documents except the first of each group, in ascending order."""
        return np.flatnonzero(self._earlier != np.arange(len(self._earlier)))
