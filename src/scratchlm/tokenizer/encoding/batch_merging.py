"""Merge many words at once in numpy: a fast twin of the definition, `inspection.merge_steps`.

This is another algorithm than `merging.merge_word`, because numpy is fast only on many words: one
array holds all words, one after another. Each round does one step of the definition for every word:
one `minimum.reduceat` finds each word's pair of lowest rank (the leftmost pair, if several have
this rank), and the round merges these pairs in all words together. A word without a pair to merge
is finished.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.int64]

_NO_PAIR = 1 << 62  # greater than every key of rank and place
_PLACE_BITS = 32
_PLACE = (1 << _PLACE_BITS) - 1


def fit_together(num_ranks: int, largest_id: int) -> bool:
    """Check whether `PairTable` can pack a pair of ids and its rank into 63 bits."""
    size = largest_id + 2
    return max(1, num_ranks.bit_length()) + (size * size).bit_length() < 63


class BatchMerger:
    """Merge the words of one vocabulary.

    `byte_ids` has the ids of the 256 bytes. `pairs` (merges, 2) has the ids of each pair, and
    `ranks` (merges,) the rank of each. `products[rank]` is the id of the merged token.
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
        """data (byte,), starts (word,), limits (word,) -> ids (byte,)

        Merge the words that start at `starts` in `data`. The first word starts at 0. The result has
        a token's id at the token's first byte, and -1 at its other bytes. Every byte must have an
        id. With `limits`, a word merges only pairs whose rank is below its limit.
        """
        # A place's key packs the rank of the pair that begins there, and the place itself. So a
        # word's lowest key belongs to the pair to merge.
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
                # Half of the places or words are finished. Store all ids, and keep the other words.
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
        """Return the rank part of each place's key, for the pair of bytes that begins there."""
        keys = np.full(len(data) + 1, _NO_PAIR)
        keys[:-2] = self._byte_pair_keys[data[:-1].astype(np.int64) << 8 | data[1:]]
        keys[starts[1:] - 1] = _NO_PAIR  # no pair crosses into the next word
        return keys


def _of_words(words: Ids, begins: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Mark the places of the words that begin at `words`, and the last place, after all words."""
    starts = np.flatnonzero(begins)
    chosen = np.zeros(len(begins), bool)
    chosen[words] = chosen[-1] = True
    return np.repeat(chosen[starts], np.diff(starts, append=len(begins)))


class PairTable:
    """A hash table in numpy arrays, which looks up the ranks of many pairs at once.

    A slot packs one pair and its rank into an int64. If another pair already has the slot, a pair
    goes to a second, smaller table, and so on. Four or five tables are enough for all pairs.
    """

    def __init__(self, pairs: Ids, ranks: Ids, size: int) -> None:
        """Build the table from `pairs` (n, 2) of ids below `size`, and `ranks` (n,)."""
        largest = int(ranks.max(initial=0))
        self._size = size
        self._rank_bits = max(1, (largest + 1).bit_length())
        keys, values = pairs[:, 0] * size + pairs[:, 1], ranks
        assert fit_together(largest + 1, size - 2)
        self._tables: list[tuple[np.uint64, np.uint64, Ids]] = []
        multiplier = 0x9E3779B97F4A7C15  # 2**64 / golden ratio (Knuth)
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
        """Return the rank of each pair, or a number above all ranks for a pair without a rank."""
        return self._look_up(first * self._size + second, 0)

    def _look_up(self, keys: Ids, level: int) -> Ids:
        if level == len(self._tables):
            return np.full(len(keys), _NO_PAIR >> _PLACE_BITS)
        multiplier, shift, table = self._tables[level]
        found = table[_slots(keys, multiplier, shift)]
        right = found >> self._rank_bits == keys
        ranks = np.where(right, found & ((1 << self._rank_bits) - 1), _NO_PAIR >> _PLACE_BITS)
        # If the slot is empty, no further table has the pair.
        rest = np.flatnonzero(~right & (found >= 0))
        if len(rest):
            ranks[rest] = self._look_up(keys[rest], level + 1)
        return ranks


def _slots(keys: Ids, multiplier: np.uint64, shift: np.uint64) -> npt.NDArray[Any]:
    return ((keys.view(np.uint64) * multiplier) >> shift).view(np.int64)
