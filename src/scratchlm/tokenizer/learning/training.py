"""Check the arguments of a training, count the pieces of the corpus, and learn the merges."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

from tqdm import tqdm

from scratchlm.tokenizer.learning.counting import Item, batches, count_pieces
from scratchlm.tokenizer.learning.fast_merges import learn_merges_fast
from scratchlm.tokenizer.parts import TokenizerParts
from scratchlm.tokenizer.pieces.patterns import Pattern
from scratchlm.tokenizer.pieces.pretokenize import (
    BLOCK_CHARACTERS,
    Pretokenizer,
    check_special_tokens,
)
from scratchlm.tokenizer.workers import SMALL_BYTES, workers_for


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
        bar = tqdm(texts, desc="counting", unit=" texts", unit_scale=True, delay=1, disable=None)
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
