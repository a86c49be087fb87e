"""Pack whole documents into rows of one length: best fit, longest documents first.

The packer sorts the documents of the whole set by length. It puts each document into the row with
the least room that is enough for the document, or into a new row. This rule (best-fit decreasing;
D. S. Johnson et al., SIAM Journal on Computing 3, 1974) needs at most 11/9 of the smallest possible
number of rows, plus a constant. It fills almost all places if the set has many short documents.

>>> packing = pack([3, 5, 2, 4], row_length=7)  # rows of 5 + 2 and of 4 + 3 tokens
>>> sorted(row.tolist() for row in packing)
[[0, 3], [1, 2]]
>>> packing.wasted
0
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Packing:
    """The rows, each with the numbers of its documents. `packing[i]` is row i.

    documents: (documents,) the numbers of the documents, row by row. starts: (rows + 1,) the place
    in `documents` where each row begins, and the end. wasted: how many tokens more the rows could
    contain.
    """

    documents: Numbers
    starts: Numbers
    wasted: int

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, row: int) -> Numbers:
        return self.documents[self.starts[row] : self.starts[row + 1]]

    def __iter__(self) -> Iterator[Numbers]:
        return (self[row] for row in range(len(self)))


def pack(
    lengths: Sequence[int] | Numbers, row_length: int, seed: int = 0, epoch: int = 0
) -> Packing:
    """lengths: (documents,), the tokens of each document -> the rows of one epoch, in random order.

    The result depends on the arguments alone. (seed, epoch) determines the order of the rows, and
    which of several documents of the same length a row contains. Raise ValueError if a document is
    empty or longer than a row, and for a negative number.
    """
    if row_length < 1 or seed < 0 or epoch < 0:
        raise ValueError(
            "row_length must be at least 1, and seed and epoch at least 0 "
            f"({row_length}, {seed}, {epoch}); use e.g. 1024, 0 and 0"
        )
    sizes = np.asarray(lengths, dtype=np.int64)
    for wrong in np.flatnonzero((sizes < 1) | (sizes > row_length))[:1]:
        raise ValueError(
            f"a document must have 1 to {row_length} tokens (document {wrong}: {sizes[wrong]}); "
            "cut or drop the document, or use longer rows"
        )
    generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, epoch])))
    order = generator.permutation(len(sizes))
    order = order[np.argsort(-sizes[order], kind="stable")]
    row_of = np.empty_like(order)
    row_of[order] = _best_fit(sizes[order].tolist(), row_length)
    count = int(row_of.max(initial=-1)) + 1
    row_of = generator.permutation(count)[row_of]
    starts = np.concatenate([[0], np.bincount(row_of, minlength=count).cumsum()])
    return Packing(np.argsort(row_of, kind="stable"), starts, count * row_length - int(sizes.sum()))


def _best_fit(lengths: list[int], row_length: int) -> list[int]:
    """Return the row of each document, in the order of `lengths`."""
    with_room: list[list[int]] = [[] for _ in range(row_length + 1)]  # room -> the rows
    rooms = 0  # bit r is 1 if a row has room for exactly r more tokens
    rows, count = [], 0
    for length in lengths:
        if enough := rooms >> length:
            room = length + (enough & -enough).bit_length() - 1  # the lowest bit: the least room
            row = with_room[room].pop()
            if not with_room[room]:
                rooms ^= 1 << room
        else:
            room, row, count = row_length, count, count + 1
        rows.append(row)
        with_room[room - length].append(row)
        rooms |= 1 << (room - length)
    return rows
