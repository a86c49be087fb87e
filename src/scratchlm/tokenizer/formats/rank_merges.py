"""Compute the merges that tiktoken's ranks imply, for all tokens at once: the fast twin of
`merges_of_ranks` and `splits_of_ranks` in `tiktoken_files`.

Each inner place of a token splits it into two parts. `known_splits` looks the parts of all places
up together, by a hash of their bytes, and keeps the splits into two tokens. Then `BatchMerger`
merges every token by the ranks below the token's rank. Two parts must remain.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from scratchlm.tokenizer.encoding.batch_merging import BatchMerger
from scratchlm.tokenizer.merge_table import BYTES, Ids

_BASE = 0x9E3779B97F4A7C15  # odd, so that it has an inverse modulo 2 ** 64

_CHUNK = 1 << 13  # tokens per lookup, so that the arrays stay in cache

Merges = tuple[Ids, Ids]  # pairs of ids (merges, 2), and ids of the merged tokens (merges,)
Hashes = npt.NDArray[np.uint64]


def merged_pairs(ranks: Mapping[bytes, int], splits: Merges) -> Merges | None:
    """Return the last merge of each token, in the order of ranks. `splits` is the result of
    `known_splits`. Return None if merging a token by lower ranks does not end with two parts."""
    tokens, limits = _by_rank({token: rank for token, rank in ranks.items() if len(token) > 1})
    if not tokens:
        return splits
    lengths = np.fromiter(map(len, tokens), np.int64, len(tokens))
    starts = np.cumsum(lengths) - lengths
    ids_of_products = np.arange(1 + int(limits.max()))  # a rank is the id
    merger = BatchMerger([ranks[byte] for byte in BYTES], *splits, ids_of_products)
    ids = merger.merge(np.frombuffer(b"".join(tokens), np.uint8), starts, limits)
    if not (np.add.reduceat(ids >= 0, starts) == 2).all():
        return None
    return ids[ids >= 0].reshape(-1, 2), limits


def known_splits(ranks: Mapping[bytes, int]) -> Merges | None:
    """Return all pairs of tokens whose concatenation is a token, in the order of this token's rank.
    Return None in the rare case that two tokens have the same hash."""
    tokens, ids = _by_rank(ranks)
    lengths = np.fromiter(map(len, tokens), np.int64, len(tokens))
    data = np.frombuffer(b"".join(tokens), np.uint8)
    hashes = _HashOfRange(data)
    ends = np.cumsum(lengths)
    starts = ends - lengths
    table = _HashTable(hashes(starts, ends))
    if not table.is_unique:
        return None

    def splits_of(some: slice) -> tuple[Ids, Ids, Ids]:
        places = lengths[some] - 1  # inner places, which can split the token
        whole = np.repeat(np.arange(len(tokens))[some], places)
        cuts = np.arange(len(whole)) - np.repeat(np.cumsum(places) - places, places)
        cuts += starts[whole] + 1
        first = table(hashes(starts[whole], cuts))
        known = np.flatnonzero(first >= 0)
        first, whole, cuts = first[known], whole[known], cuts[known]
        second = table(hashes(cuts, ends[whole]))
        known = np.flatnonzero(second >= 0)
        first, second, whole, cuts = first[known], second[known], whole[known], cuts[known]
        # Equal hashes prove nothing, so compare the bytes of both parts.
        right = (lengths[first] == cuts - starts[whole]) & (lengths[second] == ends[whole] - cuts)
        right &= _same_bytes(data, starts[first], starts[whole], lengths[first])
        right &= _same_bytes(data, starts[second], cuts, lengths[second])
        return ids[first[right]], ids[second[right]], ids[whole[right]]

    parts = [splits_of(slice(i, i + _CHUNK)) for i in range(0, len(tokens), _CHUNK)]
    first, second, whole = map(np.concatenate, zip(*parts, strict=True))
    return np.stack([first, second], axis=1), whole


def in_order(splits: Merges) -> Merges:
    """Sort the splits of each token by the ranks of their parts."""
    pairs, products = splits
    order = np.lexsort((pairs[:, 1], pairs[:, 0], products))
    return pairs[order], products[order]


def _by_rank(ranks: Mapping[bytes, int]) -> tuple[list[bytes], Ids]:
    """Return the tokens in the order of rank, and their ranks."""
    tokens, values = list(ranks), np.fromiter(ranks.values(), np.int64, len(ranks))
    if (values[1:] < values[:-1]).any():
        order = np.argsort(values)
        tokens, values = [tokens[i] for i in order.tolist()], values[order]
    return tokens, values


class _HashOfRange:
    """Hash any range of bytes, by prefix sums: sum of (byte + 1) base^i, i from 0 in the range."""

    def __init__(self, data: npt.NDArray[np.uint8]) -> None:
        self._inverses = _powers(pow(_BASE, -1, 1 << 64), len(data))
        self._sums = np.zeros(len(data) + 1, np.uint64)
        values = (data.astype(np.uint64) + np.uint64(1)) * _powers(_BASE, len(data))[:-1]
        np.cumsum(values, out=self._sums[1:])

    def __call__(self, starts: Ids, ends: Ids) -> Hashes:
        hashes: Hashes = (self._sums[ends] - self._sums[starts]) * self._inverses[starts]
        return hashes


def _powers(base: int, count: int) -> Hashes:
    factors = np.full(count + 1, base, np.uint64)
    factors[0] = 1
    return np.multiply.accumulate(factors)


class _HashTable:
    """A table that returns the index of each hash. If another hash already has the slot, a hash
    goes into a second, smaller table."""

    def __init__(self, hashes: Hashes) -> None:
        self._hashes = hashes
        ordered = np.sort(hashes)
        self.is_unique = not (ordered[1:] == ordered[:-1]).any()
        self._tables: list[tuple[np.uint64, npt.NDArray[np.int32]]] = []
        left = np.arange(len(hashes), dtype=np.int32)
        while self.is_unique and len(left):
            shift = np.uint64(64 - (4 * len(left)).bit_length())
            table = np.full(1 << (64 - int(shift)), -1, np.int32)
            slots = self._slots(hashes[left], shift)
            table[slots] = left
            self._tables.append((shift, table))
            left = left[table[slots] != left]

    def __call__(self, hashes: Hashes) -> Ids:
        """Return the index of each hash, or -1."""
        found = np.full(len(hashes), -1)
        rest = np.arange(len(hashes))
        for shift, table in self._tables:
            index = table[self._slots(hashes[rest], shift)]
            right = (index >= 0) & (self._hashes[index] == hashes[rest])
            found[rest[right]] = index[right]
            rest = rest[~right & (index >= 0)]  # if a slot is empty, no later table has the hash
        return found

    @staticmethod
    def _slots(hashes: Hashes, shift: np.uint64) -> Ids:
        slots: Ids = ((hashes * np.uint64(_BASE)) >> shift).astype(np.int64)
        return slots


def _same_bytes(
    data: npt.NDArray[np.uint8], starts: Ids, others: Ids, lengths: Ids
) -> npt.NDArray[np.bool_]:
    """Check for each pair of places whether their bytes are equal. No length may be 0."""
    before = np.cumsum(lengths) - lengths
    inside = np.arange(int(lengths.sum())) - np.repeat(before, lengths)
    same = data[np.repeat(starts, lengths) + inside] == data[np.repeat(others, lengths) + inside]
    if not len(lengths):
        return np.zeros(0, bool)
    return np.logical_and.reduceat(same, before)
