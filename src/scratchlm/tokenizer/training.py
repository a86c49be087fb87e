"""Learning byte-level BPE merges from text (Sennrich et al. 2016, arXiv 1508.07909; GPT-2).

The method counts the pairs of neighbours in all words, merges the most frequent pair into a new
token everywhere, and repeats. Written naively that is a walk over the corpus for every merge; here
each merge touches only the places where its pair stands.

The worked example, `low` 5 times, `lower` 2, `widest` 3, `newest` 6, as `learn_merges` sees it.
At first every byte is a token; the most frequent pairs are `e s` and `s t`, 9 times each, in
widest and newest. A tie goes to the lexicographically greater pair, so `s t` becomes `st`:

    l o w · l o w e r · w i d e st · n e w e st        e st is in 9 places now, e s in none
    l o w · l o w e r · w i d est · n e w est          l o and o w in 7: ow is the greater
    l ow · l ow e r · w i d est · n e w est            l ow in 7
    low · low e r · w i d est · n e w est              w est and n e, in 6 each: west
    low · low e r · w i d est · n e west               n e, then ne west: newest is one token

>>> words = {b"low": 5, b"lower": 2, b"widest": 3, b"newest": 6}
>>> [a + b for a, b in learn_merges(words, 7)]
[b'st', b'est', b'ow', b'low', b'west', b'ne', b'newest']
"""

from __future__ import annotations

import heapq
import os
from array import array
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import pairwise

from tqdm import tqdm

from scratchlm.tokenizer.bpe import BPETokenizer
from scratchlm.tokenizer.patterns import GPT2
from scratchlm.tokenizer.pretokenize import (
    Pretokenizer,
    StrPath,
    check_special_tokens,
    count_pieces,
)

_COMPLEMENT = bytes(range(255, -1, -1))


def train_bpe(
    paths: StrPath | Sequence[StrPath],
    vocab_size: int,
    special_tokens: Sequence[str] = ("<|endoftext|>",),
    *,
    pattern: str = GPT2,
    num_workers: int | None = None,
) -> BPETokenizer:
    """A tokenizer learned from one UTF-8 text file or several.

    Its ids are the 256 bytes, then the merges in the order learned, then the special tokens;
    `vocab_size` counts all of them. Special tokens split the text: nothing merges across them, nor
    across files. The result is the same for any `num_workers` (processes that cut and count the
    text; default one a core, and a corpus below 4 MB stays in this process). A corpus that runs
    out of pairs gives a smaller tokenizer; its `len()` tells.

    Errors: ValueError for a `vocab_size` below 256 and the special tokens, an empty corpus, text
    that is not UTF-8, and special tokens that are empty, repeated, or a single byte (which has an
    id already); OSError for a file that cannot be read.
    """
    specials = check_special_tokens(special_tokens)
    for token in specials:
        if len(token.encode()) == 1:
            raise ValueError(
                f"a special token is a single byte ({token!r}), which has an id of its own; "
                "use a longer one"
            )
    num_merges = vocab_size - 256 - len(specials)
    if num_merges < 0:
        raise ValueError(
            "vocab_size must hold the 256 bytes and all special tokens "
            f"({vocab_size}); give at least {256 + len(specials)}"
        )
    files = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    pieces = count_pieces(files, Pretokenizer(pattern, specials), num_workers)
    if not pieces and not any(os.path.getsize(path) for path in files):
        names = ", ".join(map(str, files)) or "no file"
        raise ValueError(f"the corpus is empty ({names}); give text to learn from")
    merges = learn_merges({piece.encode(): n for piece, n in pieces.items()}, num_merges)

    tokens = [bytes([byte]) for byte in range(256)] + [a + b for a, b in merges]
    return BPETokenizer(dict(enumerate(tokens)), merges, specials, pattern)


def learn_merges(words: Mapping[bytes, int], num_merges: int) -> list[tuple[bytes, bytes]]:
    """Up to `num_merges` merges, most frequent pair first, from words and how often each occurs.

    A tie goes to the greater pair of byte strings. Within a word a pair is merged from left to
    right, so `aaa` becomes `aa a`. Fewer merges are given where no pair is left.

    All words lie one after another in the array `symbol`, a separator after each. A token fills as
    many places as it has bytes and writes its id at its first and its last place: then the token
    before place i is `symbol[i - 1]` and the one after is `symbol[i + its length]`. `places` holds
    where each pair was seen; a place that has changed since is recognised by its symbols, and
    skipped. Every pair lies once in the heap, with a count that may have fallen since: it is put
    back with the new one when it comes up.
    """
    tokens = [bytes([byte]) for byte in range(256)]
    descending = [_descending(token) for token in tokens]
    symbol, weight = _lay_out(words)
    counts: defaultdict[tuple[int, int], int] = defaultdict(int)
    places: defaultdict[tuple[int, int], array[int]] = defaultdict(lambda: array("q"))
    for place, pair in enumerate(pairwise(symbol)):
        if pair[0] >= 0 and pair[1] >= 0:
            counts[pair] += weight[place]
            places[pair].append(place)
    heap = [(-n, descending[a], descending[b], (a, b)) for (a, b), n in counts.items()]
    heapq.heapify(heap)

    merges: list[tuple[bytes, bytes]] = []
    bar = tqdm(total=num_merges, desc="merging", unit="merge", disable=None)
    while heap and len(merges) < num_merges:
        known, key_a, key_b, pair = heapq.heappop(heap)
        if counts[pair] != -known:
            if counts[pair]:
                heapq.heappush(heap, (-counts[pair], key_a, key_b, pair))
            continue
        a, b = pair
        new = len(tokens)
        merges.append((tokens[a], tokens[b]))
        tokens.append(tokens[a] + tokens[b])
        descending.append(_descending(tokens[new]))
        a_length, length = len(tokens[a]), len(tokens[new])
        new_pairs = set()
        for place in places.pop(pair):
            if symbol[place] != a or symbol[place + a_length] != b:
                continue
            n = weight[place]
            before, after = symbol[place - 1], symbol[place + length]
            if before >= 0:
                counts[before, a] -= n
                counts[before, new] += n
                places[before, new].append(place - len(tokens[before]))
                new_pairs.add((before, new))
            if after >= 0:
                counts[b, after] -= n
                counts[new, after] += n
                places[new, after].append(place)
                new_pairs.add((new, after))
            symbol[place + a_length - 1] = symbol[place + a_length] = -1
            symbol[place] = symbol[place + length - 1] = new
        del counts[pair]
        for a, b in new_pairs:
            if counts[a, b]:
                heapq.heappush(heap, (-counts[a, b], descending[a], descending[b], (a, b)))
        bar.update()
    bar.close()
    return merges


def _lay_out(words: Mapping[bytes, int]) -> tuple[array[int], array[int]]:
    """All words' bytes in one array, -1 before, between and after them; and each place's count."""
    symbol, weight = array("i", [-1]), array("q", [0])
    for word, n in words.items():
        symbol.extend(word)
        symbol.append(-1)
        weight.extend([n] * (len(word) + 1))
    return symbol, weight


def _descending(token: bytes) -> str:
    """A key that sorts byte strings from the greatest down, for a heap that gives the least.

    Complementing each byte turns the order round, but for a token that begins another: the end
    mark, above every byte, puts the longer one first.
    """
    return token.translate(_COMPLEMENT).decode("latin-1") + "\u0100"
