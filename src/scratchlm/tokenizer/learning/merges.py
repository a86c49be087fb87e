"""Learn byte-level BPE merges from text (Sennrich et al. 2016, arXiv 1508.07909; GPT-2).

Count how often each word occurs, and count the adjacent pairs in all words. Merge the most frequent
pair into a new token everywhere, and repeat. `learn_merges` does this on one readable page.
Training uses `fast_merges.learn_merges_fast`, which gives the same merges.

An example: `low` occurs 5 times, `lower` 2, `widest` 3, `newest` 6. At first every byte is a token.
The most frequent pairs are `e s` and `s t`: each occurs 9 times, in widest and newest. In a tie,
`learn_merges` chooses the lexicographically greater pair, so `s t` becomes `st`:

    l o w · l o w e r · w i d e st · n e w e st        e st occurs 9 times now, e s never
    l o w · l o w e r · w i d est · n e w est          l o and o w occur 7 times; o w is greater
    l ow · l ow e r · w i d est · n e w est            l ow occurs 7 times
    low · low e r · w i d est · n e w est              n e, e w, w est: 6 times; w est is greatest
    low · low e r · w i d est · n e west               n e, then ne west: newest is one token

>>> words = {b"low": 5, b"lower": 2, b"widest": 3, b"newest": 6}
>>> [a + b for a, b in learn_merges(words, 7)]
[b'st', b'est', b'ow', b'low', b'west', b'ne', b'newest']
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from itertools import pairwise


def learn_merges(
    words: Mapping[bytes, int],
    num_merges: int,
    min_frequency: int = 0,
    max_token_length: int | None = None,
) -> list[tuple[bytes, bytes]]:
    """Return up to `num_merges` merges, most frequent pair first, from words and their counts.

    In a tie, the greater pair of byte strings comes first. In a word, merging goes from left to
    right, so `aaa` becomes `aa a`. Learning stops early when no pair occurs at least
    `min_frequency` times and makes a token of at most `max_token_length` bytes.
    """
    tokens_of = {word: [bytes([byte]) for byte in word] for word in words}
    counts: Counter[tuple[bytes, bytes]] = Counter()
    words_with: defaultdict[tuple[bytes, bytes], set[bytes]] = defaultdict(set)
    for word, tokens in tokens_of.items():
        for pair in pairwise(tokens):
            counts[pair] += words[word]
            words_with[pair].add(word)

    merges: list[tuple[bytes, bytes]] = []
    while len(merges) < num_merges:
        allowed = (
            pair
            for pair, times in counts.items()
            if times >= max(1, min_frequency)
            and (max_token_length is None or len(pair[0] + pair[1]) <= max_token_length)
        )
        best = max(allowed, key=lambda pair: (counts[pair], pair), default=None)
        if best is None:
            break
        merges.append(best)
        for word in words_with.pop(best):
            tokens = tokens_of[word]
            for pair in pairwise(tokens):
                counts[pair] -= words[word]
            tokens = tokens_of[word] = _merge_pair(tokens, best)
            for pair in pairwise(tokens):
                counts[pair] += words[word]
                words_with[pair].add(word)
    return merges


def _merge_pair(tokens: Sequence[bytes], pair: tuple[bytes, bytes]) -> list[bytes]:
    """Merge every occurrence of the pair in `tokens`, from left to right."""
    merged: list[bytes] = []
    for token in tokens:
        if merged and (merged[-1], token) == pair:
            merged[-1] += token
        else:
            merged.append(token)
    return merged
