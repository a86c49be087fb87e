"""Encode one word: start from the ids of its bytes, and merge the pair of lowest rank until no pair
has a rank. If several pairs have the lowest rank, merge the leftmost pair first.

`inspection.merge_steps` is the definition. It looks up all pairs for each merge, so it is slow.
`merge_word` looks up only the two new pairs of a merge, which is fastest for usual words.
`merge_long_word` also avoids the scan for the lowest rank. Its heap needs n log n steps, which is
fast even for a word of a hundred thousand letters.

`ranks` maps a pair of ids to its rank; `products[rank]` is the id of the merged token.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from itertools import pairwise
from typing import Protocol

Pair = tuple[int, int]


class Ranks(Protocol):
    """The ranks of pairs of ids, such as a dict."""

    def get(self, pair: Pair, default: int, /) -> int: ...


NO_RANK = 1 << 62  # above every rank


def merge_word(
    ids: list[int], ranks: Ranks, products: Sequence[int], limit: int = NO_RANK
) -> list[int]:
    """Merge the ids of a word in place, and return them. Merge no pair of rank `limit` or above.

    A second list holds the rank of each pair of neighbours. A merge changes two of these ranks, and
    `min` finds the lowest in one pass in C.
    """
    ranked = [ranks.get(pair, NO_RANK) for pair in pairwise(ids)]
    while ranked:
        rank = min(ranked)
        if rank >= limit:
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
    """Merge the ids of a word with a heap of (rank, place) over a linked list of places.

    A heap entry is stale if the pair at its place now has another rank. The loop skips it, because
    the new pair has its own entry.
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
