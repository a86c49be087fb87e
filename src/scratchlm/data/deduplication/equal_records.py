"""Find equal keys among more records than fit into memory.

A record is a key of one or more 64-bit numbers, and the number of a document. The records arrive in
blocks, in the order of the documents. Each block is sorted and becomes a run on the disk. Then the
runs are merged: for one range of keys after another, the parts of all runs are sorted together.
Memory contains one block, because keys are hashes, which spread evenly over the ranges, and because
a run keeps only the first of the records with the same key.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt

from scratchlm.files.atomic import naming

Columns = npt.NDArray[np.uint64]  # (numbers of a key + 1, records); the last row is the documents
Pairs = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]  # documents, and documents after them

BLOCK_RECORDS = 1 << 19


def equal_pairs(
    blocks: Iterable[Columns], scratch: Path, merge_size: int = BLOCK_RECORDS
) -> Iterator[Pairs]:
    """Yield pairs of documents with equal keys. The first document of a pair is the earlier one.

    The pairs connect all documents with an equal key. Each of them, except the earliest, is the
    second document of a pair. `scratch` must be an empty folder. The runs stay there. A merge sorts
    about `merge_size` records at a time.
    """
    runs: list[Columns] = []
    total = 0
    for block in blocks:
        block, pairs = _sorted_firsts(block)
        yield pairs
        if not block.size:
            continue
        path = scratch / f"run-{len(runs):05}"
        with naming(path), path.open("wb") as file:
            file.write(block.tobytes())
        runs.append(np.memmap(path, np.uint64, "r", shape=block.shape))
        total += block.shape[1]
    if len(runs) < 2:
        return
    ranges = -(-total // merge_size)
    starts = [np.zeros(len(runs), np.int64)]
    for number in range(1, ranges):
        border = np.uint64((number << 64) // ranges)
        starts.append(np.array([np.searchsorted(run[0], border) for run in runs]))
    starts.append(np.array([run.shape[1] for run in runs]))
    for begins, ends in pairwise(starts):
        parts = [run[:, begin:end] for run, begin, end in zip(runs, begins, ends, strict=True)]
        yield _sorted_firsts(np.concatenate(parts, axis=1))[1]


def _sorted_firsts(block: Columns) -> tuple[Columns, Pairs]:
    """Return the first record of each key, sorted by key, and the pairs (first, other record)."""
    block = block[:, np.lexsort(block[-2::-1])]  # stable: equal keys stay in the documents' order
    is_first = np.ones(block.shape[1], bool)
    is_first[1:] = (block[:-1, 1:] != block[:-1, :-1]).any(axis=0)
    firsts = block[:, is_first]
    of_group = np.cumsum(is_first)[~is_first] - 1
    documents = block[-1].astype(np.int64)
    return firsts, (firsts[-1].astype(np.int64)[of_group], documents[~is_first])
