"""Encoding one word: its bytes' tokens are merged, the pair of lowest rank first, the leftmost of
equals first.

`ranks` gives a pair of ids its rank and `products` a rank the id of the merged token. Two ways to
the same result: `merge_word` looks through the whole word for each merge, which is quickest for
words as they are; `merge_long_word` takes n log n steps, for a word of a hundred thousand letters.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from itertools import pairwise
from typing import Protocol

Pair = tuple[int, int]


class Ranks(Protocol):
    """Ranks by pairs of ids, such as a dict."""

    def get(self, pair: Pair, default: int, /) -> int: ...


NO_RANK = 1 << 62  # above every rank


def merge_word(ids: list[int], ranks: Ranks, products: Sequence[int]) -> list[int]:
    """The ids that are left of a word's; `ids` is used up.

    Beside the ids goes a list with the rank of each pair of neighbours: a merge changes two of
    them, and finding the lowest is one pass in C.
    """
    ranked = [ranks.get(pair, NO_RANK) for pair in pairwise(ids)]
    while ranked:
        rank = min(ranked)
        if rank == NO_RANK:
            break
        i = ranked.index(rank)
        ids[i : i + 2] = [products[rank]]
        del ranked[i]
        if i > 0:
            ranked[i - 1] = ranks.get((ids[i - 1], ids[i]), NO_RANK)
        if i < len(ranked):
            ranked[i] = ranks.get((ids[i], ids[i + 1]), NO_RANK)
    return ids


def merge_long_word(ids: list[int], ranks: Ranks, products: Sequence[int]) -> list[int]:
    """The ids that are left of a word's, by a heap of (rank, place) over a linked list of places.

    A heap entry is out of date when the pair at its place has another rank by now; it is skipped,
    for the pair that stands there has an entry of its own.
    """
    end = len(ids)
    before = list(range(-1, end - 1))
    after = list(range(1, end + 1))

    def rank_at(place: int) -> int:
        if place < 0 or ids[place] < 0 or after[place] == end:
            return NO_RANK
        return ranks.get((ids[place], ids[after[place]]), NO_RANK)

    heap = [(rank, place) for place in range(end) if (rank := rank_at(place)) < NO_RANK]
    heapq.heapify(heap)
    while heap:
        rank, place = heapq.heappop(heap)
        if rank_at(place) != rank:
            continue
        gone = after[place]
        ids[place], ids[gone] = products[rank], -1
        after[place] = after[gone]
        if after[place] < end:
            before[after[place]] = place
        for changed in (before[place], place):
            if (rank := rank_at(changed)) < NO_RANK:
                heapq.heappush(heap, (rank, changed))
    return [id for id in ids if id >= 0]
