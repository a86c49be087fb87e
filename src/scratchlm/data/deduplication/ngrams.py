"""Hash the n-grams of many texts: all runs of n words of a text."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from scratchlm.data.deduplication.words import Counts, Hashes, mixed, normal_words, word_hashes

_STEP = np.uint64(0xD6E8FEB86659FD93)


def ngrams_of(text: str, n: int) -> set[tuple[str, ...]]:
    """Return the different n-grams of a text. This is the readable definition.

    >>> sorted(ngrams_of("To be, or not to be.", 3))
    [('be', 'or', 'not'), ('not', 'to', 'be'), ('or', 'not', 'to'), ('to', 'be', 'or')]
    """
    words = normal_words(text)
    return {tuple(words[start : start + n]) for start in range(len(words) - n + 1)}


def ngram_hashes(texts: Sequence[str], n: int, *, whole: bool) -> tuple[Hashes, Counts]:
    """Return the hashes of the n-grams of all texts in order, and the number of each text.

    An n-gram that occurs twice in a text has two hashes. A text with fewer than n words has no
    n-gram. With `whole`, it has one hash, of all its words, unless it has no words.
    """
    words, counts = word_hashes(texts)
    windows = np.maximum(counts - n + 1, np.minimum(counts, 1) if whole else 0)
    if not windows.any():
        return words[:0], windows
    # Put n - 1 zeros behind each text, so that no sum has words of two texts.
    owners = np.repeat(np.arange(len(texts)), counts)
    places = np.arange(len(words)) + (n - 1) * owners
    padded = np.zeros(len(words) + (n - 1) * len(texts), np.uint64)
    padded[places] = words
    sums = np.zeros(len(padded) - n + 1, np.uint64)
    for position in range(n):
        sums *= _STEP
        sums += padded[position : position + len(sums)]
    ranks = np.arange(len(words)) - (np.cumsum(counts) - counts)[owners]
    return mixed(sums[places[ranks < windows[owners]]]), windows
