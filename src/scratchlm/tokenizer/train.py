"""Train a tokenizer on files or on texts in memory."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Sequence
from itertools import chain

from tqdm import tqdm

from scratchlm.config import takes_synonyms
from scratchlm.files.paths import StrPath
from scratchlm.tokenizer.bpe import BPETokenizer
from scratchlm.tokenizer.learning.training import Training
from scratchlm.tokenizer.pieces.patterns import GPT2, Pattern
from scratchlm.tokenizer.pieces.text_files import cut_file
from scratchlm.tokenizer.special_tokens import END_OF_TEXT
from scratchlm.tokenizer.workers import workers_for

LARGEST_RANGE = 1 << 25  # bytes that a worker counts at a time


@takes_synonyms()
def train_bpe(
    paths: StrPath | Sequence[StrPath],
    vocab_size: int,
    special_tokens: Sequence[str] = (END_OF_TEXT,),
    *,
    pattern: Pattern = GPT2,
    num_workers: int | None = None,
    min_frequency: int = 0,
    max_token_length: int | None = None,
) -> BPETokenizer:
    """Train a tokenizer on one UTF-8 text file or several.

    The ids are the 256 bytes, then the merges in the order of learning, then the special tokens. If
    the corpus has too few pairs, the tokenizer is smaller than `vocab_size`; see its `len()`.

    vocab_size: the number of all these ids.
    special_tokens: they split the text. No merge crosses a special token or the end of a file.
    num_workers: the number of processes that cut and count the text. The default is one process per
        core, and only this process for a corpus below 4 MB. The result does not depend on this
        number.
    min_frequency: training does not merge a pair that occurs fewer times.
    max_token_length: training does not merge a pair whose token would have more bytes.

    Raise ValueError for a `vocab_size` below 256 + the number of special tokens, an empty corpus,
    text that is not UTF-8, an invalid pattern, and a special token that is empty, repeated, or a
    single byte (which already has an id). Raise OSError for a file that cannot be read.
    """
    files = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    training = Training(vocab_size, special_tokens, pattern, min_frequency, max_token_length)
    size = sum(_size(path) for path in files)
    if not size:
        names = ", ".join(map(str, files)) or "no file"
        raise ValueError(f"the corpus is empty ({names}); choose files that are not empty")
    with tqdm(total=size, desc="counting", unit="B", unit_scale=True, disable=None) as bar:
        # Two ranges per worker keep all workers busy to the end. More ranges would cost time.
        workers = workers_for(size, num_workers)
        step = min(size // (2 * workers) + 1, LARGEST_RANGE)
        items = (cut_file(path, training.pretokenizer, step, bar) for path in files)
        return BPETokenizer.from_parts(training.learn(chain.from_iterable(items), workers))


def _size(path: StrPath) -> int:
    name = os.fspath(path)
    if "\n" in name or len(name) > 4096:
        raise ValueError(
            f"this is a text, not a path ({name!r:.40}…); pass texts to train_bpe_from_texts"
        )
    try:
        return os.path.getsize(name)
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG or (error.errno == errno.ENOENT and " " in name):
            error.strerror = "no such file; pass texts in memory to train_bpe_from_texts"
        raise


@takes_synonyms()
def train_bpe_from_texts(
    texts: Iterable[str],
    vocab_size: int,
    special_tokens: Sequence[str] = (END_OF_TEXT,),
    *,
    pattern: Pattern = GPT2,
    num_workers: int | None = None,
    min_frequency: int = 0,
    max_token_length: int | None = None,
) -> BPETokenizer:
    """Train a tokenizer on texts in memory, or on an iterator over more text than fits in memory.

    No merge crosses from one text to the next. The arguments and the errors are the same as in
    `train_bpe`. Also raise ValueError for a lone surrogate.
    """
    training = Training(vocab_size, special_tokens, pattern, min_frequency, max_token_length)
    return BPETokenizer.from_parts(training.learn_from_texts(texts, num_workers))
