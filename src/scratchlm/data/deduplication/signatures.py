"""Read the files of signatures: for each document, the same number of little-endian numbers."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from scratchlm.files.paths import StrPath


def count_signatures(paths: Sequence[StrPath], width: int) -> int:
    """Return the number of signatures of `width` numbers in all files together."""
    return sum(os.path.getsize(path) for path in paths) // (8 * width)


def signature_blocks(
    paths: Sequence[StrPath], width: int, count: int
) -> Iterator[tuple[int, npt.NDArray[np.uint64]]]:
    """Yield the number of a document, and the signatures of this and the next documents: an array
    (at most `count`, width).

    The files contain little-endian numbers. The next block replaces the content of the array.
    """
    block = np.empty((count, width), "<u8")
    target = memoryview(block.data).cast("B")
    first = filled = 0
    for path in paths:
        with open(path, "rb") as file:
            while size := file.readinto(target[filled:]):
                filled += size
                if filled == len(target):
                    yield first, block
                    first, filled = first + count, 0
    if filled:
        yield first, block[: filled // (8 * width)]
