"""A cache from stretches to their ids, which looks up all stretches of a text at once.

A short stretch is a number in a hash table of numpy arrays, and a few array operations find all of
them. Long stretches, a tenth of a text, are keys of a dict. Each stretch has an entry, the index of
its start and count in one array of ids.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable
from itertools import repeat

import numpy as np

from scratchlm.tokenizer.pieces.byte_strings import SHORT, Array, numbers_of, slices, strings_of

CAPACITY = 1 << 19  # stretches; 60 MB of books have nearly as many
LONG_BYTES = 1 << 24  # bytes; the limit for all keys of the dict together
_SLOT_BITS = 20
_SLOTS = 1 << _SLOT_BITS

# Stretches, the short ones first -> all their ids, joined, and the number of ids of each.
Merge = Callable[[list[bytes]], tuple[Array, Array]]


class StretchCache:
    """A cache that empties itself when it is full. So its memory is limited, and it adapts to new
    text. A lock lets only one thread use the cache at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # The multiplier is random, so that nobody can write a text whose words all share one slot.
        self._multiplier = np.uint64(secrets.randbits(64) | 1)
        self.clear()

    def __len__(self) -> int:
        return self._size

    def clear(self) -> None:
        """Remove all stretches."""
        self._size = 0
        self._keys = np.zeros(_SLOTS, np.uint64)
        self._entries = np.full(_SLOTS, -1, np.int32)
        self._long: dict[bytes, int] = {}
        self._long_bytes = 0
        self._ids: list[Array] = []
        self._starts, self._counts = np.zeros(0, np.int64), np.zeros(0, np.int64)

    def encode(self, data: bytes, starts: Array, lengths: Array, merge: Merge) -> Array:
        """Return the joined ids of the stretches at these places of `data`.

        There may be at most `CAPACITY` stretches. `merge` encodes the new ones.
        """
        if not len(starts):
            return np.zeros(0, np.int64)
        with self._lock:
            try:
                return self._encode(data, starts, lengths, merge)
            except BaseException:
                self.clear()  # an update may be incomplete
                raise

    def _encode(self, data: bytes, starts: Array, lengths: Array, merge: Merge) -> Array:
        is_short = lengths <= SHORT
        numbers = numbers_of(data, starts[is_short], lengths[is_short])
        long = slices(data, starts[~is_short], lengths[~is_short])
        entries = np.empty(len(starts), np.int64)
        entries[is_short] = self._find(numbers)
        entries[~is_short] = self._find_long(long)
        if entries.min() < 0:
            self._learn(numbers, long, merge)
            entries[is_short] = self._find(numbers)
            entries[~is_short] = self._find_long(long)
        counts = self._counts[entries]
        ends = np.cumsum(counts)
        # Output position p of a stretch reads the id at start + (p - its first output position).
        places = np.repeat(self._starts[entries] - (ends - counts), counts) + np.arange(ends[-1])
        self._ids = [np.concatenate(self._ids)] if len(self._ids) > 1 else self._ids
        return self._ids[0][places]

    def _learn(self, numbers: Array, long: list[bytes], merge: Merge) -> None:
        """Add an entry for each new stretch."""
        distinct, distinct_long = np.unique(numbers), set(long)
        new = distinct[self._find(distinct) < 0]
        new_long = distinct_long.difference(self._long)
        long_bytes = sum(map(len, new_long))
        if self._size and (
            self._size + len(new) + len(new_long) > CAPACITY
            or self._long_bytes + long_bytes > LONG_BYTES
        ):
            self.clear()
            new, new_long = distinct, distinct_long
            long_bytes = sum(map(len, new_long))
        ordered = sorted(new_long, key=len)
        ids, counts = merge([*strings_of(new), *ordered])
        used = sum(map(len, self._ids))
        self._ids.append(ids)
        self._starts = np.append(self._starts, used + np.cumsum(counts) - counts)
        self._counts = np.append(self._counts, counts)
        self._insert(new)
        self._long.update(
            zip(ordered, range(self._size + len(new), len(self._starts)), strict=True)
        )
        self._long_bytes += long_bytes
        self._size = len(self._starts)

    def _find_long(self, stretches: list[bytes]) -> Array:
        return np.fromiter(map(self._long.get, stretches, repeat(-1)), np.int64, len(stretches))

    def _find(self, numbers: Array) -> Array:
        """Return the entry of each number, or -1. If a slot holds another number, try the next
        slot (linear probing)."""
        slots = self._slots(numbers)
        found = self._entries[slots]
        rest = np.flatnonzero((found >= 0) & (self._keys[slots] != numbers))
        while len(rest):
            slots[rest] = (slots[rest] + 1) % _SLOTS
            found[rest] = self._entries[slots[rest]]
            wrong = (found[rest] >= 0) & (self._keys[slots[rest]] != numbers[rest])
            rest = rest[wrong]
        return found

    def _insert(self, numbers: Array) -> None:
        """Add the next entries, for distinct new numbers."""
        entries = np.arange(self._size, self._size + len(numbers), dtype=np.int32)
        slots = self._slots(numbers)
        while len(numbers):
            free = np.flatnonzero(self._entries[slots] < 0)
            self._keys[slots[free]] = numbers[free]
            # If several numbers have the same slot, the last number stays in it.
            won = free[self._keys[slots[free]] == numbers[free]]
            self._entries[slots[won]] = entries[won]
            rest = np.ones(len(numbers), bool)
            rest[won] = False
            numbers, entries, slots = numbers[rest], entries[rest], (slots[rest] + 1) % _SLOTS

    def _slots(self, numbers: Array) -> Array:
        return ((numbers * self._multiplier) >> np.uint64(64 - _SLOT_BITS)).view(np.int64)
