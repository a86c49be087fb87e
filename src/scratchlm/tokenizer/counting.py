"""How often each piece occurs in a corpus: all that training needs to know of it.

Texts go to the worker processes in batches, and each gives its counts back. What is counted first
are stretches (see `stretches`), a hundred times as many as there are distinct ones, and only the
distinct ones are cut into pieces.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from scratchlm.tokenizer.pretokenize import Pretokenizer
from scratchlm.tokenizer.stretches import SEPARATOR, cut, has_stretches, plain_text, together
from scratchlm.tokenizer.workers import parallel_map

BATCH_CHARACTERS = 1 << 23  # of texts that a worker counts at a time


def count_pieces(
    texts: Iterable[str], pretokenizer: Pretokenizer, num_workers: int
) -> Counter[str]:
    """How often each piece occurs in texts, each cut by itself; special tokens are left out.

    The counts do not depend on the number of worker processes.
    """
    counts: Counter[str] = Counter()
    for found in parallel_map(PieceCounter(pretokenizer), batches(texts), num_workers):
        counts.update(found)
    return counts


def batches(texts: Iterable[str]) -> Iterator[list[str]]:
    """The texts in lists of `BATCH_CHARACTERS` together, or of one that is longer."""
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
    """Texts -> how often each piece occurs in them. ValueError for a lone surrogate."""

    def __init__(self, pretokenizer: Pretokenizer) -> None:
        self._pretokenizer = pretokenizer

    def __call__(self, texts: list[str]) -> Counter[str]:
        pieces: Counter[str] = Counter()
        stretches: Counter[str] = Counter()
        for text in texts:
            for ordinary in self._pretokenizer.split(text)[::2]:
                if self._pretokenizer.known and has_stretches(ordinary):
                    first, *others = cut(ordinary)
                    pieces.update(self._pretokenizer.pieces(plain_text(first)))
                    stretches.update(others)
                else:
                    pieces.update(self._pretokenizer.pieces(ordinary))
        self._add_pieces_of(stretches, pieces)
        return pieces

    def _add_pieces_of(self, stretches: Counter[str], pieces: Counter[str]) -> None:
        sign = SEPARATOR[-1]
        for stretch in [stretch for stretch in stretches if sign in stretch]:
            times = stretches.pop(stretch)
            for piece in self._pretokenizer.pieces(" " + plain_text(stretch)):
                pieces[piece] += times
        counts = iter(stretches.values())
        times = next(counts, 0)
        for piece in self._pretokenizer.pieces(together(stretches)):
            if piece == SEPARATOR:
                times = next(counts, 0)
            else:
                pieces[piece] += times
