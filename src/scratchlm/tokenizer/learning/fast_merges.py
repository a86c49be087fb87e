"""Learn merges with numpy: the fast twin of `merges.learn_merges`, with the same merges.

One array of symbols holds all words, one after another. Links lead to the next and the previous
symbol. So a few vector operations on the places of a pair merge it everywhere.

Two ideas make it fast. Every occurrence of a pair appears together with the newer of its two
tokens, so the count of a pair is highest when the pair appears, and then only falls.
1. The heap may contain old counts. When a pair reaches the top, `pop` counts its places a second
   time. If the count fell, the pair goes back into the heap.
2. A pair that appears below a bound can wait until all other pairs fall below the bound. So the
   work has several rounds. Each round counts all pairs, and its bound is an eighth of the last one.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

Ints = npt.NDArray[Any]

FEW = 48  # places; for fewer, plain Python is faster than numpy
MANY = 4096  # places; from this number on, `_add` drops rare pairs before it sorts
_BUCKETS = 1 << 16
_BORDER = -1  # between two words
_GONE = -2  # merged into the previous symbol
_COMPLEMENT = bytes(range(255, -1, -1))


def learn_merges_fast(
    words: Mapping[bytes, int],
    num_merges: int,
    min_frequency: int = 0,
    max_token_length: int | None = None,
) -> list[tuple[bytes, bytes]]:
    """Return the result of `merges.learn_merges`, which explains the arguments and the order."""
    corpus = _Corpus(words, max_token_length)
    lowest = max(1, min_frequency)
    merges: list[tuple[bytes, bytes]] = []
    # Short work, as in a lesson, shows no bar.
    bar = tqdm(total=num_merges, desc="merging", unit="merge", delay=1, disable=None)
    bound = corpus.highest_count()
    while len(merges) < num_merges and bound >= lowest:
        bound = max(bound // 8, lowest)
        corpus.start_round(bound)
        while len(merges) < num_merges and (pair := corpus.pop()):
            merges.append(corpus.merge(*pair))
            bar.update()
        if bound == lowest:
            break
    bar.close()
    return merges


class _Corpus:
    """The words as symbols, and the heap of the pairs that reach the round's bound."""

    def __init__(self, words: Mapping[bytes, int], max_token_length: int | None) -> None:
        text = b"\n".join(words) + b"\n"
        symbols = np.frombuffer(b"\n" + text, np.uint8).astype(np.int32)
        lengths = np.fromiter(map(len, words), np.int64, len(words))
        symbols[np.cumsum(np.append(0, lengths + 1))] = _BORDER
        counts = np.fromiter(words.values(), np.int64, len(words))
        self._lay_out(symbols, np.append(0, np.repeat(counts, lengths + 1)))
        self.tokens = [bytes([byte]) for byte in range(256)]
        self._keys = [_descending(token) for token in self.tokens]
        self._longest = max_token_length or 1 << 62

    def _lay_out(self, symbols: Ints, weights: Ints) -> None:
        """Store the symbols one after another, with the count of the word at each place."""
        places = np.arange(len(symbols), dtype=np.int32)
        self._symbols, self._weights = symbols, weights
        self._next, self._previous = places + np.int32(1), places - np.int32(1)
        # Views of the same memory: Python reads single ints from them faster than from arrays.
        arrays: tuple[Any, ...] = (symbols, weights, self._next, self._previous)
        self._few = [memoryview(array) for array in arrays]

    def highest_count(self) -> int:
        """Return a count that no pair exceeds, for the first round."""
        symbols = self._symbols
        inside = np.flatnonzero((symbols[:-1] >= 0) & (symbols[1:] >= 0))
        pairs = symbols[inside] << 8 | symbols[inside + 1]
        return int(np.bincount(pairs, self._weights[inside]).max(initial=0))

    def start_round(self, bound: int) -> None:
        """Count all pairs. Keep the places of the pairs that reach the bound."""
        self._bound = bound
        live = self._symbols != _GONE
        self._lay_out(self._symbols[live], self._weights[live])
        self._places: dict[tuple[int, int], Any] = {}
        self._heap: list[tuple[int, str, str, tuple[int, int]]] = []
        # A pair is no more frequent than either of its tokens.
        inside = self._symbols >= 0
        frequency = np.bincount(self._symbols[inside], self._weights[inside], len(self.tokens))
        inside[inside] = (frequency >= bound)[self._symbols[inside]]
        places = np.flatnonzero(inside[:-1] & inside[1:]).astype(np.int32)
        self._add(self._symbols[places], self._symbols[places + 1], places)

    def _add(self, first: Ints, second: Ints, places: Ints) -> None:
        """Add the pairs at these places, in ascending order. Drop pairs below the bound."""
        if len(places) >= MANY:
            # Sorting is slow, so first drop the pairs of every bucket that is below the bound.
            buckets: Ints = np.bitwise_and(first * 31 + second * 1009, _BUCKETS - 1)
            totals = np.bincount(buckets, self._weights[places], _BUCKETS)
            high = np.flatnonzero((totals >= self._bound)[buckets])
            first, second, places = first[high], second[high], places[high]
        if not len(places):
            return
        pairs = first.astype(np.int64) << 32 | second
        order = np.argsort(pairs, kind="stable")
        pairs, places = pairs[order], places[order]
        starts = np.flatnonzero(np.append(True, pairs[1:] != pairs[:-1]))
        counts = np.add.reduceat(self._weights[places], starts)
        ends = np.append(starts[1:], len(pairs))
        kept = np.flatnonzero(counts >= self._bound)
        starts, ends, counts = starts[kept], ends[kept], counts[kept]
        for pair, start, end, count in zip(
            pairs[starts].tolist(), starts.tolist(), ends.tolist(), counts.tolist(), strict=True
        ):
            self._push(pair >> 32, pair & 0xFFFFFFFF, places[start:end], count)

    def _push(self, a: int, b: int, places: Any, count: int) -> None:
        if len(self.tokens[a]) + len(self.tokens[b]) <= self._longest:
            self._places[a, b] = places
            heapq.heappush(self._heap, (-count, self._keys[a], self._keys[b], (a, b)))

    def pop(self) -> tuple[int, int, Any] | None:
        """Return the most frequent pair and its places, or None if no pair reaches the bound."""
        while self._heap:
            known, _, _, pair = self._heap[0]
            places, count = self._recount(*pair)
            if count == -known:
                heapq.heappop(self._heap)
                del self._places[pair]
                return *pair, places
            if count >= self._bound:
                self._places[pair] = places
                heapq.heapreplace(self._heap, (-count, *self._heap[0][1:]))
            else:
                heapq.heappop(self._heap)
                del self._places[pair]
        return None

    def _recount(self, a: int, b: int) -> tuple[Any, int]:
        """Return the places where a pair still occurs, and its count."""
        places: Any = self._places[a, b]
        if len(places) < FEW:
            symbols, weights, after, _ = self._few
            if not isinstance(places, list):
                places = places.tolist()
            places = [p for p in places if symbols[p] == a and symbols[after[p]] == b]
            return places, sum([weights[p] for p in places])
        places = places[(self._symbols[places] == a) & (self._symbols[self._next[places]] == b)]
        return places, int(self._weights[places].sum())

    def merge(self, a: int, b: int, places: Any) -> tuple[bytes, bytes]:
        """Merge the pair at its places into a new token, and add the new pairs around it."""
        new = len(self.tokens)
        self.tokens.append(self.tokens[a] + self.tokens[b])
        self._keys.append(_descending(self.tokens[new]))
        if a == b:
            places = self._without_overlaps(np.array(places, np.int32))
        if len(places) < FEW:
            self._merge_few(new, places)
        else:
            self._merge_many(new, places)
        return self.tokens[a], self.tokens[b]

    def _without_overlaps(self, places: Ints) -> Ints:
        """Keep the first, third, … pair of a run `aaaa`, because merging goes left to right."""
        index = np.arange(len(places))
        follows = np.append(False, self._next[places[:-1]] == places[1:])
        start_of_run = np.maximum.accumulate(np.where(follows, 0, index))
        return places[(index - start_of_run) % 2 == 0]

    def _merge_many(self, new: int, places: Ints) -> None:
        second = self._next[places]
        after = self._next[second]
        self._symbols[places], self._symbols[second] = new, _GONE
        self._next[places], self._previous[after] = after, places
        before = self._previous[places]
        left, right = self._symbols[before], self._symbols[after]
        # If two new tokens are neighbours, only the left one adds their pair.
        has_left = np.flatnonzero((left >= 0) & (left != new))
        has_right = np.flatnonzero(right >= 0)
        left, right = left[has_left], right[has_right]
        self._add(left, np.full_like(left, new), before[has_left])
        self._add(np.full_like(right, new), right, places[has_right])

    def _merge_few(self, new: int, places: Any) -> None:
        symbols, weights, after, previous = self._few
        for place in places:
            second = after[place]
            following = after[second]
            symbols[place], symbols[second] = new, _GONE
            after[place], previous[following] = following, place
        born: dict[tuple[int, int], list[int]] = {}
        for place in places:
            before = previous[place]
            left, right = symbols[before], symbols[after[place]]
            if left >= 0 and left != new:
                born.setdefault((left, new), []).append(before)
            if right >= 0:
                born.setdefault((new, right), []).append(place)
        for pair, where in born.items():
            count = sum([weights[place] for place in where])
            if count >= self._bound:
                self._push(*pair, where, count)


def _descending(token: bytes) -> str:
    """Return a key that sorts byte strings in descending order, because a heap pops the least key.

    The complement of each byte reverses the order, except if one token is a prefix of another. The
    end mark is above every byte, so it puts the longer token first.
    """
    return token.translate(_COMPLEMENT).decode("latin-1") + "\u0100"
