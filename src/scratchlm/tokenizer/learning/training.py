"""Training a tokenizer, on files or on texts in memory."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Sequence
from itertools import chain

from tqdm import tqdm

from scratchlm.config import takes_synonyms
from scratchlm.tokenizer.bpe import BPETokenizer
from scratchlm.tokenizer.formats.json_content import StrPath
from scratchlm.tokenizer.learning.merges import Training
from scratchlm.tokenizer.pieces.patterns import GPT2, Pattern
from scratchlm.tokenizer.pieces.text_files import cut_file
from scratchlm.tokenizer.workers import workers_for

LARGEST_RANGE = 1 << 25  # bytes that a worker counts at a time


@takes_synonyms()
def train_bpe(
    paths: StrPath | Sequence[StrPath],
    vocab_size: int,
    special_tokens: Sequence[str] = ("<|endoftext|>",),
    *,
    pattern: Pattern = GPT2,
    num_workers: int | None = None,
    min_frequency: int = 0,
    max_token_length: int | None = None,
) -> BPETokenizer:
    """A tokenizer learned from one UTF-8 text file or several.

    Its ids are the 256 bytes, then the merges in the order learned, then the special tokens;
    `vocab_size` counts all of them. Special tokens split the text: nothing merges across them, nor
    across files. A pair that occurs less than `min_frequency` times is not merged, nor one that
    would make a token of more than `max_token_length` bytes. The result is the same for any
    `num_workers` (processes that cut and count the text; default one a core, and a corpus below
    4 MB stays in this process). A corpus that runs out of pairs gives a smaller tokenizer; its
    `len()` tells.

    Errors: ValueError for a `vocab_size` below 256 and the special tokens, an empty corpus, text
    that is not UTF-8, a pattern that is none, and special tokens that are empty, repeated, or a
    single byte (which has an id already); OSError for a file that cannot be read.
    """
    files = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    training = Training(vocab_size, special_tokens, pattern, min_frequency, max_token_length)
    size = sum(_size(path) for path in files)
    if not size:
        names = ", ".join(map(str, files)) or "no file"
        raise ValueError(f"the corpus is empty ({names}); give text to learn from")
    with tqdm(total=size, desc="counting", unit="B", unit_scale=True, disable=None) as bar:
        # Two ranges a worker keep all of them busy to the end; more would cost time.
        workers = workers_for(size, num_workers)
        step = min(size // (2 * workers) + 1, LARGEST_RANGE)
        items = (cut_file(path, training.pretokenizer, step, bar) for path in files)
        return BPETokenizer.from_parts(training.learn(chain.from_iterable(items), workers))


def _size(path: StrPath) -> int:
    name = os.fspath(path)
    if "\n" in name or len(name) > 4096:
        raise ValueError(
            f"a path is one line ({name!r:.40}…); train_bpe_from_texts takes texts in memory"
        )
    try:
        return os.path.getsize(name)
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG or (error.errno == errno.ENOENT and " " in name):
            error.strerror = "no such file, and texts are for train_bpe_from_texts"
        raise


@takes_synonyms()
def train_bpe_from_texts(
    texts: Iterable[str],
    vocab_size: int,
    special_tokens: Sequence[str] = ("<|endoftext|>",),
    *,
    pattern: Pattern = GPT2,
    num_workers: int | None = None,
    min_frequency: int = 0,
    max_token_length: int | None = None,
) -> BPETokenizer:
    """The same from texts in memory, or from an iterator over more than memory holds.

    Each is a text of its own: nothing merges across two of them. Arguments and errors as in
    `train_bpe`, and ValueError for a lone surrogate.
    """
    training = Training(vocab_size, special_tokens, pattern, min_frequency, max_token_length)
    return BPETokenizer.from_parts(training.learn_from_texts(texts, num_workers))
