"""Encoding one word: its bytes' tokens are merged, the pair of lowest rank first, the leftmost of
equals first.

`ranks` gives a pair of ids its rank and `products` a rank the id of the merged token. Two ways to
the same result: `merge_word` looks through the whole word for each merge, which is quickest for
words as they are; `merge_long_word` takes n log n steps, for a word of a hundred thousand letters.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from itertools import pairwise

Pair = tuple[int, int]
NO_RANK = 1 << 62  # above every rank
LONG_WORD = 500  # bytes; from here on a heap is faster than looking through the word
CACHED_WORDS = 1 << 16  # some 15 MB
LONGEST_CACHED_WORD = 64  # characters


class WordEncoder(dict[str, tuple[int, ...]]):
    """Word to ids: `encoder[word]`. The dict holds words met before, at C speed.

    It is emptied when full, so that its memory is bounded and it follows a change of text.
    ValueError for a byte that is not in the vocabulary.
    """

    def __init__(
        self, id_of: Mapping[bytes, int], ranks: Mapping[Pair, int], products: Sequence[int]
    ) -> None:
        super().__init__()
        self._byte_ids = [id_of.get(bytes([byte]), -1) for byte in range(256)]
        self._ranks = ranks
        self._products = products

    def __missing__(self, word: str) -> tuple[int, ...]:
        data = word.encode()
        ids = [self._byte_ids[byte] for byte in data]
        if -1 in ids:
            raise ValueError(
                f"the vocabulary has no token for a byte of the text "
                f"(0x{data[ids.index(-1)]:02x} in {word[:40]!r}); add all 256 bytes to it"
            )
        merge = merge_word if len(ids) < LONG_WORD else merge_long_word
        merged = tuple(merge(ids, self._ranks, self._products))
        if len(word) <= LONGEST_CACHED_WORD:
            if len(self) >= CACHED_WORDS:
                self.clear()
            self[word] = merged
        return merged


def merge_word(ids: list[int], ranks: Mapping[Pair, int], products: Sequence[int]) -> list[int]:
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


def merge_long_word(
    ids: list[int], ranks: Mapping[Pair, int], products: Sequence[int]
) -> list[int]:
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
