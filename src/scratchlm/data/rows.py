"""Rows of tokens: the windows of one epoch, and how they treat documents.

A row has seq + 1 tokens: seq inputs, and as many targets one place later. The place PADDING fills
the end of a row that has fewer tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from scratchlm.data.joined import TokenArray

PADDING = np.iinfo(np.int64).min  # no id has this value

Numbers = npt.NDArray[np.int64]


Rows = Callable[[Numbers], Numbers]  # (n,) places in the order of an epoch -> (n, seq + 1) tokens


@dataclass(frozen=True)
class Documents:
    """How batches treat documents. `separator` is the id at the end of each document.

    separate: each input attends only to its own document, and no separator has a target. aligned:
    rows begin at the start of a document.
    """

    separator: int
    separate: bool = False
    aligned: bool = False


class StreamRows:
    """Rows that cut the stream of tokens every T tokens, where T is the context length.

    An epoch has n = max(1, (len − T)//T) rows of T + 1 tokens. They start T tokens apart, so an
    epoch uses no target twice. Each epoch shifts its rows by an offset, which is uniformly random
    over all possible offsets.
    """

    def __init__(self, tokens: TokenArray, context_length: int) -> None:
        self.tokens, self.context_length = tokens, context_length
        self.count = max(1, (len(tokens) - context_length) // context_length)

    def shuffled(self, generator: np.random.Generator) -> Rows:
        """Return the rows of an epoch, each once, in random order."""
        spare = len(self.tokens) - 1 - self.count * self.context_length
        offset = generator.integers(spare, endpoint=True)
        starts = offset + self.context_length * generator.permutation(self.count)
        return lambda places: windows_at(self.tokens, starts[places], self.context_length + 1)


def windows_at(tokens: TokenArray, starts: Numbers, length: int) -> Numbers:
    """tokens: (n,), starts: (batch,) -> (batch, length) int64."""
    if isinstance(tokens, np.ndarray):
        windows = tokens[starts[:, None] + np.arange(length)]
    else:
        windows = np.stack([tokens[start : start + length] for start in starts.tolist()])
    return windows.astype(np.int64)
