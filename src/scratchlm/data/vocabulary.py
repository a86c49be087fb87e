"""Choose a vocabulary size for a corpus, and train a tokenizer on a corpus of any format."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from scratchlm.data.documents import read_texts
from scratchlm.data.reading.rejects import Rejects
from scratchlm.data.reading.settings import Reading
from scratchlm.data.sources import is_plain
from scratchlm.tokenizer.bpe import BPETokenizer
from scratchlm.tokenizer.pieces.patterns import GPT2
from scratchlm.tokenizer.train import train_bpe, train_bpe_from_texts

BYTES_ALONE = 257  # ids without merges: the bytes and the separator
_LARGEST = 32_768


def suitable_vocab_size(num_bytes: int, num_special: int = 1) -> int:
    """Return a vocabulary size for `num_bytes` of text: 2 sqrt(bytes) merges, at most 32,768 ids.

    >>> [suitable_vocab_size(size) for size in (0, 600, 10**6, 10**9)]
    [257, 305, 2257, 32768]
    """
    return min(_LARGEST, 256 + num_special + 2 * math.isqrt(num_bytes))


def ids_left_over(
    tokenizer: BPETokenizer, vocab_size: int, num_bytes: int, limits: str = ""
) -> Iterator[str]:
    """Yield a warning if the text had too few pairs to merge for `vocab_size`.

    The warning advises a smaller size if `vocab_size` is larger than `suitable_vocab_size`. limits:
    the flags that may have stopped the training earlier.
    """
    used = len(tokenizer)
    if used < vocab_size:
        advice = ""
        fit = suitable_vocab_size(num_bytes, len(tokenizer.special_tokens))
        if used <= fit < vocab_size:
            advice = f"; use --vocab_size {used}"
        elif fit < used:
            advice = f"; use --vocab_size {fit}, which suits {num_bytes:,} bytes of text"
        allowed = f" with {limits}" if limits else ""
        yield (
            f"the text has no more pairs to merge{allowed}: {used:,} of {vocab_size:,} ids are "
            f"used{advice}"
        )


def learn_tokenizer(
    files: Sequence[Path],
    vocab_size: int,
    special_tokens: Sequence[str],
    *,
    reading: Reading,
    rejects: Rejects | None = None,
    pattern: str = GPT2,
    **settings: Any,
) -> BPETokenizer:
    """Train a tokenizer on texts or documents. `settings` are the settings of `train_bpe`.

    Raise the errors of `train_bpe` and `read_documents`.
    """
    if all(map(is_plain, files)):
        return train_bpe(files, vocab_size, special_tokens, pattern=pattern, **settings)
    texts = read_texts(files, reading, rejects, pattern=pattern, special_tokens=special_tokens)
    return train_bpe_from_texts(texts, vocab_size, special_tokens, pattern=pattern, **settings)
