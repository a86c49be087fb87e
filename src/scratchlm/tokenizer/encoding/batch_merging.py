"""Merging many words at once in numpy: the fast twin of `merging.merge_word`.

All words lie one after another in one array. A round finds each word's pair of lowest rank (the
leftmost of equals) by one `minimum.reduceat`, and merges it in all words together; words with no
pair left drop out. So a round does for every word what a step of `merge_word` does for one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.int64]

_NO_PAIR = 1 << 62  # above every rank and place
_PLACE_BITS = 32
_PLACE = (1 << _PLACE_BITS) - 1


def fit_together(num_ranks: int, largest_id: int) -> bool:
    """Whether a pair of ids and its rank fit into 63 bits, as `PairTable` packs them."""
    size = largest_id + 2
    return max(1, num_ranks.bit_length()) + (size * size).bit_length() < 63


class BatchMerger:
    """Merges the words of one vocabulary.

    `byte_ids` are the ids of the 256 bytes, `pairs` of ids (merges, 2) have these `ranks`
    (merges,), and `products` says what the merge of a rank makes.
    """

    def __init__(self, byte_ids: Sequence[int], pairs: Ids, ranks: Ids, products: Ids) -> None:
        self._byte_ids = np.array(byte_ids, np.int64)
        self._products = products
        self._nothing = max(max(byte_ids), int(self._products.max(initial=0))) + 1
        self._rank_of = PairTable(pairs, ranks, self._nothing + 1)
        first, second = np.divmod(np.arange(1 << 16), 256)
        self._byte_pair_keys = self._rank_of(self._byte_ids[first], self._byte_ids[second])
        self._byte_pair_keys <<= _PLACE_BITS

    def merge(self, data: npt.NDArray[np.uint8], starts: Ids, limits: Ids | None = None) -> Ids:
        """The ids of the words that start at `starts` (the first at 0) in the bytes `data`.

        As many as there are bytes: a token's id stands at its first byte, -1 at its others. Every
        byte must have an id. Of a word with a limit only pairs of lower rank are merged. A place's
        key holds the rank of the pair that begins there, and the place itself: the lowest key is
        the pair to merge.
        """
        size = len(data)
        places = np.arange(size + 1)
        ids = np.append(self._byte_ids[data], self._nothing)
        keys = self._keys_of_bytes(data, starts) | places
        begins = np.zeros(size + 1, bool)
        begins[starts] = begins[size] = True
        merged, origin = ids.copy(), places
        after, before = places + 1, places - 1
        words, gone = starts, 0
        num_words = len(words)
        while True:
            lowest = np.minimum.reduceat(keys, words)
            unfinished = lowest < _NO_PAIR
            if limits is not None:
                unfinished &= lowest >> _PLACE_BITS < limits
                limits = limits[unfinished]
            words, lowest = words[unfinished], lowest[unfinished]
            if not len(words):
                break
            if 2 * gone > size or 2 * len(words) < num_words:
                # Half of what the rounds go through is done: write it down, keep the rest.
                merged[origin] = ids
                kept = _of_words(words, begins) & (ids >= 0)
                moved = np.cumsum(kept) - 1
                words, origin = moved[words], origin[kept]
                ids, keys, begins = ids[kept], keys[kept], begins[kept]
                size, num_words, gone = len(ids) - 1, len(words), 0
                places = np.arange(size + 1)
                keys = np.where(keys < _NO_PAIR, keys >> _PLACE_BITS << _PLACE_BITS, _NO_PAIR)
                keys |= places
                lowest = lowest >> _PLACE_BITS << _PLACE_BITS | moved[lowest & _PLACE]
                after, before = places + 1, places - 1

            left = lowest & _PLACE
            right = after[left]
            new = self._products[lowest >> _PLACE_BITS]
            ids[left], ids[right], keys[right] = new, -1, _NO_PAIR
            gone += len(left)
            following, preceding = after[right], before[left]
            after[left], before[following] = following, left
            no_next, no_previous = begins[following], begins[left]
            next_ids = np.where(no_next, self._nothing, ids[following])
            previous_ids = np.where(no_previous, self._nothing, ids[preceding])
            pairs = np.concatenate([new, previous_ids]), np.concatenate([next_ids, new])
            ranks = self._rank_of(*pairs) << _PLACE_BITS
            keys[left] = ranks[: len(left)] | left
            has_previous = np.flatnonzero(~no_previous)
            preceding = preceding[has_previous]
            keys[preceding] = ranks[len(left) :][has_previous] | preceding
        merged[origin] = ids
        return merged[:-1]

    def _keys_of_bytes(self, data: npt.NDArray[np.uint8], starts: Ids) -> Ids:
        """The rank of the pair of bytes that begins at each place, without the place."""
        keys = np.full(len(data) + 1, _NO_PAIR)
        keys[:-2] = self._byte_pair_keys[data[:-1].astype(np.int64) << 8 | data[1:]]
        keys[starts[1:] - 1] = _NO_PAIR  # no pair reaches into the next word
        return keys


def _of_words(words: Ids, begins: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Which places lie in the words that begin at `words`; the last place, after all words, too."""
    starts = np.flatnonzero(begins)
    chosen = np.zeros(len(begins), bool)
    chosen[words] = chosen[-1] = True
    return np.repeat(chosen[starts], np.diff(starts, append=len(begins)))


class PairTable:
    """Ranks of many pairs at once, by a hash table in numpy arrays.

    A slot holds one pair and its rank, packed into an int64. Pairs that found their slot taken go
    to a second, smaller table, and so on; the few last ones need four or five.
    """

    def __init__(self, pairs: Ids, ranks: Ids, size: int) -> None:
        """`pairs` (n, 2) of ids below `size`, and the rank of each."""
        largest = int(ranks.max(initial=0))
        self._size = size
        self._rank_bits = max(1, (largest + 1).bit_length())
        keys, values = pairs[:, 0] * size + pairs[:, 1], ranks
        assert fit_together(largest + 1, size - 2)
        self._tables: list[tuple[np.uint64, np.uint64, Ids]] = []
        multiplier = 0x9E3779B97F4A7C15  # Knuth's, of the golden ratio
        while len(keys):
            bits = (4 * len(keys)).bit_length()
            table = np.full(1 << bits, -1)
            hashing = np.uint64(multiplier), np.uint64(64 - bits)
            slots = _slots(keys, *hashing)
            table[slots] = keys << self._rank_bits | values
            outside = np.flatnonzero(table[slots] >> self._rank_bits != keys)
            self._tables.append((*hashing, table))
            keys, values = keys[outside], values[outside]
            multiplier = (multiplier * 0xD1342543DE82EF95 + 2) % (1 << 64)

    def __call__(self, first: Ids, second: Ids) -> Ids:
        """The rank of each pair, or, where it has none, a number above all ranks."""
        return self._look_up(first * self._size + second, 0)

    def _look_up(self, keys: Ids, level: int) -> Ids:
        if level == len(self._tables):
            return np.full(len(keys), _NO_PAIR >> _PLACE_BITS)
        multiplier, shift, table = self._tables[level]
        found = table[_slots(keys, multiplier, shift)]
        right = found >> self._rank_bits == keys
        ranks = np.where(right, found & ((1 << self._rank_bits) - 1), _NO_PAIR >> _PLACE_BITS)
        # An empty slot says that the pair is in no table.
        rest = np.flatnonzero(~right & (found >= 0))
        if len(rest):
            ranks[rest] = self._look_up(keys[rest], level + 1)
        return ranks


def _slots(keys: Ids, multiplier: np.uint64, shift: np.uint64) -> npt.NDArray[Any]:
    return ((keys.view(np.uint64) * multiplier) >> shift).view(np.int64)


def byte_starts(lengths: Ids, data: npt.NDArray[np.uint8]) -> Ids:
    """Where pieces of so many characters start in `data`, the UTF-8 bytes of all of them joined."""
    starts = np.cumsum(lengths) - lengths
    if len(data) == starts[-1] + lengths[-1]:
        return starts
    characters = np.flatnonzero(data & 0xC0 != 0x80)  # the first byte of each
    return characters[starts]
