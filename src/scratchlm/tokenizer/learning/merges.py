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
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, pairwise

from tqdm import tqdm

from scratchlm.tokenizer.formats.content import TokenizerParts
from scratchlm.tokenizer.learning.counting import Item, batches, count_pieces
from scratchlm.tokenizer.learning.fast_merges import learn_merges_fast
from scratchlm.tokenizer.pieces.patterns import Pattern
from scratchlm.tokenizer.pieces.pretokenize import (
    BLOCK_CHARACTERS,
    Pretokenizer,
    check_special_tokens,
)
from scratchlm.tokenizer.workers import SMALL_BYTES, workers_for


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


class Training:
    """Check the arguments of `train_bpe` before any text is read, then learn merges."""

    def __init__(
        self,
        vocab_size: int,
        special_tokens: Sequence[str],
        pattern: Pattern,
        min_frequency: int,
        max_token_length: int | None,
    ) -> None:
        self.specials = check_special_tokens(special_tokens)
        for token in self.specials:
            if len(token.encode()) == 1:
                raise ValueError(
                    f"a special token must be longer than one byte ({token!r}), because every byte "
                    "has an id; use a longer token"
                )
        if int(vocab_size) != vocab_size:
            raise ValueError(
                f"vocab_size must be a whole number ({vocab_size!r}); use 1000, for example"
            )
        self.num_merges = int(vocab_size) - 256 - len(self.specials)
        if self.num_merges < 0:
            raise ValueError(
                f"vocab_size must be at least {256 + len(self.specials)} ({vocab_size}), for the "
                "256 bytes and all special tokens; increase vocab_size"
            )
        if min_frequency < 0:
            raise ValueError(
                f"min_frequency must be at least 0 ({min_frequency}); use 0 to allow any frequency"
            )
        if max_token_length is not None and max_token_length < 1:
            raise ValueError(
                f"max_token_length must be at least 1 ({max_token_length}); omit max_token_length "
                "to allow any length"
            )
        self.pretokenizer = Pretokenizer(pattern, self.specials)
        self.min_frequency, self.max_token_length = min_frequency, max_token_length

    def learn(self, items: Iterable[Item], num_workers: int) -> TokenizerParts:
        """Count pieces in worker processes (see `count_pieces`), then learn merges."""
        try:
            words = count_pieces(items, self.pretokenizer, num_workers)
        except UnicodeEncodeError as error:
            raise ValueError(
                f"a text has a lone surrogate (U+{ord(error.object[error.start]):04X}); "
                "replace it, for example with U+FFFD"
            ) from None
        merges = learn_merges_fast(
            words, self.num_merges, self.min_frequency, self.max_token_length
        )
        tokens = [bytes([byte]) for byte in range(256)] + [a + b for a, b in merges]
        pattern = self.pretokenizer.pattern
        vocab = dict(enumerate([*tokens, *(special.encode() for special in self.specials)]))
        return TokenizerParts(vocab, merges, self.specials, pattern)

    def learn_from_texts(self, texts: Iterable[str], num_workers: int | None) -> TokenizerParts:
        """Learn merges from texts. For a small corpus, use one process."""
        if isinstance(texts, str):
            raise ValueError(
                f"texts must not be one string ({texts[:20]!r}); put the string in a list"
            )
        bar = tqdm(texts, desc="counting", unit=" texts", unit_scale=True, disable=None)
        blocks = chain.from_iterable(map(self._blocks, bar))
        first = list(_up_to(blocks, SMALL_BYTES))
        if not first:
            raise ValueError("the corpus is empty (no text); choose texts that are not empty")
        workers = workers_for(sum(map(len, first)), num_workers)
        return self.learn(batches(chain(first, blocks)), workers)

    def _blocks(self, text: str) -> Iterable[str]:
        return [text] if len(text) <= BLOCK_CHARACTERS else self.pretokenizer.blocks([text])


def _up_to(texts: Iterator[str], characters: int) -> Iterator[str]:
    """Yield the first texts, until they have this many characters."""
    for text in texts:
        yield text
        characters -= len(text)
        if characters <= 0:
            return
