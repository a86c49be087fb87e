"""Count how often each piece occurs in a corpus. Training needs only these counts.

Worker processes get batches of texts and return counts. The definition is one line,
`Counter(pieces)`. Two methods make this module fast. First, it counts stretches (see `stretches`),
and cuts only the distinct stretches into pieces. A distinct stretch occurs about fifty times.
Second, it counts byte strings of up to eight bytes as numbers, with a sort. Most strings are so
short.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

import numpy as np

from scratchlm.tokenizer.pieces.byte_strings import (
    SHORT,
    Array,
    between_spaces,
    byte_starts,
    numbers_of,
    slices,
    strings_of,
)
from scratchlm.tokenizer.pieces.pretokenize import Pretokenizer
from scratchlm.tokenizer.pieces.stretches import SEPARATOR, has_stretches, stretches_of, together
from scratchlm.tokenizer.pieces.text_files import Range, texts_of
from scratchlm.tokenizer.workers import parallel_map

BATCH_CHARACTERS = 1 << 24  # a worker counts this many characters at a time

Item = Range | str | list[str]


def count_pieces(
    items: Iterable[Item], pretokenizer: Pretokenizer, num_workers: int
) -> Counter[bytes]:
    """Count the pieces (as UTF-8) of file ranges and texts, without special tokens.

    No piece crosses from one item or text to the next. The counts do not depend on the number of
    worker processes. Raise UnicodeEncodeError for a lone surrogate.
    """
    counts: Counter[bytes] = Counter()
    for found in parallel_map(PieceCounter(pretokenizer), items, num_workers):
        counts.update(found)
    return counts


def batches(texts: Iterable[str]) -> Iterator[list[str]]:
    """Yield lists of texts. Every list but the last has at least `BATCH_CHARACTERS` characters."""
    batch: list[str] = []
    size = 0
    for text in texts:
        batch.append(text)
        size += len(text)
        if size >= BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


class PieceCounter:
    """Count the pieces of an item: a range of a file, a text or several texts."""

    def __init__(self, pretokenizer: Pretokenizer) -> None:
        self._pretokenizer = pretokenizer

    def __call__(self, item: Item) -> Counter[bytes]:
        pieces: Counter[str] = Counter()
        stretches = _ByteStrings()
        for text in texts_of(item, self._pretokenizer):
            for ordinary in self._pretokenizer.split(text)[::2]:
                if self._pretokenizer.known and has_stretches(ordinary):
                    first, middle, last = stretches_of(ordinary)
                    pieces.update(self._pretokenizer.pieces(first + SEPARATOR)[:-1])
                    pieces.update(self._pretokenizer.pieces(last))
                    stretches.add(*between_spaces(middle))
                else:
                    pieces.update(self._pretokenizer.pieces(ordinary))
        counts = self._pieces_of(*stretches.counted())
        counts.update({piece.encode(): times for piece, times in pieces.items()})
        return counts

    def _pieces_of(self, stretches: list[bytes], times: Array) -> Counter[bytes]:
        """Count the pieces of distinct stretches, each of which occurs `times` times."""
        text = together(stretches)
        if not text:
            return Counter()
        data = text.encode()
        starts = byte_starts(self._pretokenizer.find.lengths(text), np.frombuffer(data, np.uint8))
        lengths = np.diff(starts, append=len(data))
        second = np.frombuffer(data + b" ", np.uint8)[starts + 1]
        is_separator = (lengths == len(SEPARATOR)) & (second == ord(SEPARATOR[-1]))
        owner = np.cumsum(is_separator)
        chosen = np.flatnonzero(~is_separator)
        pieces = _ByteStrings()
        pieces.add(data, starts[chosen], lengths[chosen], times[owner[chosen]])
        strings, counts = pieces.counted()
        return Counter(dict(zip(strings, counts.tolist(), strict=True)))


class _ByteStrings:
    """Count byte strings without zero bytes: short ones as numbers, long ones in a dict."""

    def __init__(self) -> None:
        self._keys: list[Array] = []
        self._times: list[Array] = []
        self._long: Counter[bytes] = Counter()

    def add(self, data: bytes, starts: Array, lengths: Array, times: Array | None = None) -> None:
        """Add the strings at these places, each once or `times` times."""
        short = lengths <= SHORT
        self._keys.append(numbers_of(data, starts[short], lengths[short]))
        strings = slices(data, starts[~short], lengths[~short])
        if times is None:
            self._long.update(strings)
        else:
            self._times.append(times[short])
            for string, count in zip(strings, times[~short].tolist(), strict=True):
                self._long[string] += count

    def counted(self) -> tuple[list[bytes], Array]:
        """Return the distinct strings and their counts."""
        keys = np.concatenate([*self._keys, np.empty(0, np.uint64)])
        order = np.argsort(keys) if self._times else None
        keys = np.sort(keys) if order is None else keys[order]
        firsts = np.flatnonzero(np.append(True, keys[1:] != keys[:-1])[: len(keys)])
        counts: Array = np.diff(firsts, append=len(keys))
        if order is not None and len(keys):
            counts = np.add.reduceat(np.concatenate(self._times)[order], firsts)
        return (
            [*strings_of(keys[firsts]), *self._long],
            np.append(counts, np.fromiter(self._long.values(), np.int64, len(self._long))),
        )
