"""One array of tokens in several files. A window may begin in one file and end in a later file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt


class TokenArray(Protocol):
    """A 1-D array of ids that reads slices: an array, a memory map, a file, or several files."""

    @property
    def dtype(self) -> np.dtype[Any]: ...
    def __len__(self) -> int: ...
    def __getitem__(self, key: slice, /) -> npt.NDArray[Any]: ...


class JoinedTokens:
    """The ids `start` to `stop` of several arrays, as one array. It copies only what a slice reads.

    >>> joined = JoinedTokens([np.arange(3), np.arange(10, 15)])
    >>> len(joined), joined[2:5].tolist()
    (8, [2, 10, 11])
    """

    def __init__(
        self, arrays: Sequence[TokenArray], start: int = 0, stop: int | None = None
    ) -> None:
        self._arrays = tuple(arrays)
        self._ends = np.cumsum([len(array) for array in arrays], dtype=np.int64)
        self._start = start
        self._stop = int(self._ends[-1]) if stop is None else stop
        self.dtype = np.result_type(*(array.dtype for array in arrays))

    def __len__(self) -> int:
        return self._stop - self._start

    def __getitem__(self, key: slice) -> npt.NDArray[Any]:
        start, stop, step = key.indices(len(self))
        place, stop = self._start + start, self._start + max(start, stop)
        assert step == 1  # batches read windows of neighbours
        pieces: list[npt.NDArray[Any]] = [np.empty(0, self.dtype)]
        file = int(np.searchsorted(self._ends, place, side="right"))
        while place < stop:
            array, end = self._arrays[file], int(self._ends[file])
            first = end - len(array)
            pieces.append(array[place - first : min(stop, end) - first])
            place, file = min(stop, end), file + 1
        return pieces[1] if len(pieces) == 2 else np.concatenate(pieces)

    def part(self, start: int, stop: int) -> JoinedTokens:
        """Return the ids `start` to `stop`, without a copy."""
        return JoinedTokens(self._arrays, self._start + start, self._start + stop)


def joined(arrays: Sequence[TokenArray]) -> TokenArray:
    """Return the arrays as one array. One array stays as it is."""
    return arrays[0] if len(arrays) == 1 else JoinedTokens(arrays)


def cut(tokens: TokenArray, place: int) -> tuple[TokenArray, TokenArray]:
    """Return the ids before `place` and the other ids, without a copy."""
    if isinstance(tokens, np.ndarray):
        return tokens[:place], tokens[place:]
    whole = tokens if isinstance(tokens, JoinedTokens) else JoinedTokens([tokens])
    return whole.part(0, place), whole.part(place, len(whole))
